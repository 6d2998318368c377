/* SPDX-License-Identifier: Apache-2.0 */
/* messages.h - every message that ferry itself reads and writes. */
#pragma once
#include "cgroup.pb-c.h"
#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "ferry-pagesums.pb-c.h"
#include "fs.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "sk-packet.pb-c.h"
#include "stats.pb-c.h"
