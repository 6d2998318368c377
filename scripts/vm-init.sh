#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a guest of vm.sh: makes the root out of the host's, moves there, runs the command, and powers off.
# vm.work is where the command is, vm.home where the kernel's modules are, vm.cwd where to run, all of them the host's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

word() { busybox sed -n "s|.*vm.$1=\([^ ]*\).*|\1|p" /proc/cmdline; }

make_root() {
	busybox mkdir -p /proc /sys /lower /upper /root
	busybox mount -t proc proc /proc
	busybox mount -t devtmpfs dev /dev
	for module in /modules/*; do busybox insmod "$module"; done
	busybox mount -t virtiofs -o ro root /lower || return
	busybox mount -t tmpfs upper /upper
	busybox mkdir /upper/root /upper/work
	busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/root,workdir=/upper/work overlay /root || return
	busybox mount -t tmpfs run /root/run
	busybox cp /init "/lower$(word work)/command" /root/run/
	busybox mkdir -p "/root/lib/modules/$(busybox uname -r)"
	busybox mount -o bind "/lower$(word home)/lib/modules/$(busybox uname -r)" "/root/lib/modules/$(busybox uname -r)"
	busybox mount -o move /proc /root/proc
	busybox mount -o move /dev /root/dev
}

# A checkout that lies below /tmp is to be seen there.
mount_tmp() {
	mkdir -p /run/checkout
	mount -o bind "$1" /run/checkout
	mount -t tmpfs tmp /tmp
	case "$1" in
	/tmp/*) mkdir -p "$1" && mount -o move /run/checkout "$1" ;;
	*) umount /run/checkout ;;
	esac
}

run_command() {
	mount -t sysfs sysfs /sys
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mount_tmp "$(word cwd)"
	mkdir -p /dev/pts /dev/shm /dev/mqueue
	mount -t devpts -o ptmxmode=666 devpts /dev/pts
	mount -t tmpfs shm /dev/shm
	mount -t mqueue mqueue /dev/mqueue
	ln -s /proc/self/fd /dev/fd
	ln -s fd/0 /dev/stdin
	ln -s fd/1 /dev/stdout
	ln -s fd/2 /dev/stderr
	chmod 1777 /tmp /dev/shm
	busybox ip link set lo up
	ulimit -n 65536
	cd "$(word cwd)" || cd /
	setsid sh /run/command </dev/null >/dev/vport0p1 2>&1
	echo $? >/dev/vport0p2
}

case ${1:-} in
inside) run_command ;;
*) make_root && exec busybox switch_root /root /bin/sh /run/init inside ;;
esac
busybox poweroff -f
