/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.h - the part of `ferry show DIR` about the directories that its pages come from.
 *
 *	Chain: 3 links, 5.2 MiB on disk
 *	  this directory: dump 03a1b2c3; 120 pages here, 480.0 KiB on disk, 120 of them read
 *	  ../b: pre-dump 02d4e5f6; 300 pages here, 800.0 KiB on disk, 200 of them read; gave up pages for 03a1b2c3
 *	  ../a: dump 01a7b8c9; 1200 pages here, 4.0 MiB on disk, 1000 of them read
 *
 * Pages that are read are those that a restore of DIR needs.  A pages file that has several names counts where it is
 * first.  What is wrong with the chain is told in words, in lines that begin with PROBLEM.  A directory without a parent
 * has one line about itself, where it is a link at all.
 */
#pragma once
#include <stdio.h>

#include "image/store.h"

int chain_print(struct store *store, FILE *out, struct err *err);
