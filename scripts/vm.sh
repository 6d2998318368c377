#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# vm.sh setup: makes what guests of other kernels need out of Debian's packages, in $FERRY_VM (build/vm where unset);
#	installs nothing on this system. Quick when it is there.
# vm.sh run [-k 6.1|6.12] [-t LIMIT_S] [-m MIB] COMMAND...: boots a guest (qemu, no KVM needed) and runs COMMAND, a line
#	of shell, as root in it. The guest's root is this system's, what it changes is gone afterwards. Both outputs of
#	COMMAND come out here. Exit status: that of COMMAND, 124 when the limit is over, 125 when the guest died.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
vm=${FERRY_VM:-$top/build/vm}
init=$top/scripts/vm-init.sh
# what a guest needs before it has its root; all others it loads from there
modules='virtio_pci virtio_console virtiofs overlay'

package() {
	case $1 in
	6.1) meta=linux-image-cloud-amd64 ;;
	*) meta=linux-image-$1-cloud-amd64 ;;
	esac
	apt-cache depends "$meta" | sed -n 's/^ *Depends: *\(linux-image-.*\)/\1/p' | head -n 1
}

# Makes $vm/new/vmlinuz and $vm/new/lib/modules/VERSION. (-e is off where this is called.)
fetch() {
	rm -rf "$vm/new"
	mkdir -p "$vm/new/deb" &&
		chmod 777 "$vm/new/deb" &&	# apt downloads as a user of its own
		(cd "$vm/new/deb" && apt-get download -q "$(package "$1")") &&
		dpkg-deb -x "$vm"/new/deb/*.deb "$vm/new" &&
		mv "$vm"/new/boot/vmlinuz-* "$vm/new/vmlinuz" &&
		rm -rf "$vm/new/deb" "$vm/new/boot" "$vm/new/usr" &&
		depmod -b "$vm/new" "$(ls "$vm/new/lib/modules")"
}

kernel() {
	log=$vm/fetch.log
	mkdir -p "$vm"
	# Lists may be missing or old: then, and only then, they are fetched.
	fetch "$1" >"$log" 2>&1 || { apt-get update -q && fetch "$1"; } >>"$log" 2>&1 || {
		tail -n 20 "$log" >&2
		echo "vm.sh: no kernel $1, the log is $log" >&2
		exit 1
	}
	mv "$vm/new" "$vm/$1"
}

initrd() {
	rm -rf "$vm/initrd"
	mkdir -p "$vm/initrd/bin" "$vm/initrd/dev" "$vm/initrd/modules"
	cp /bin/busybox "$vm/initrd/bin/"
	cp "$init" "$vm/initrd/init"
	chmod 755 "$vm/initrd/init"
	rank=100
	for module in $modules; do
		modprobe -d "$vm/$1" -S "$(ls "$vm/$1/lib/modules")" --ignore-install --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		rank=$((rank + 1))
		name=$vm/initrd/modules/$rank.$(basename "$file" .xz)
		case $file in
		*.xz) xz -dc "$file" >"$name" ;;
		*) cp "$file" "$name" ;;
		esac
	done
	(cd "$vm/initrd" && find . | busybox cpio -o -H newc 2>/dev/null) >"$vm/$1/initrd.new"
	mv "$vm/$1/initrd.new" "$vm/$1/initrd"
	rm -rf "$vm/initrd"
}

setup() {
	for version in 6.1 6.12; do
		[ -d "$vm/$version" ] || kernel "$version"
		[ "$vm/$version/initrd" -nt "$init" ] || initrd "$version"
	done
}

run() {
	kernel=6.12 limit_s=600 memory_mib=2048
	while getopts k:t:m: option; do
		case $option in
		k) kernel=$OPTARG ;;
		t) limit_s=$OPTARG ;;
		m) memory_mib=$OPTARG ;;
		*) exit 2 ;;
		esac
	done
	shift $((OPTIND - 1))
	if [ ! -e "$vm/$kernel/initrd" ]; then
		echo "vm.sh: no kernel $kernel in $vm; make it with vm.sh setup" >&2
		exit 125
	fi
	work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-vm.XXXXXX")
	started=
	# shellcheck disable=SC2086
	trap '[ -z "$started" ] || kill $started 2>/dev/null || :; wait; rm -rf "$work"' EXIT
	trap 'exit 125' HUP INT TERM
	printf '%s\n' "$*" >"$work/command"
	mkfifo "$work/out"
	cat "$work/out" &
	cat=$!

	# Gives the host's root to the guest, and ends with it. It holds a descriptor a file.
	ulimit -n "$(ulimit -H -n)"
	setpriv --pdeathsig TERM /usr/lib/qemu/virtiofsd --socket-path="$work/root" -o source=/,cache=always,sandbox=chroot,log_level=warn \
		--rlimit-nofile=0 >"$work/virtiofsd" 2>&1 &
	started="$cat $!"
	while [ ! -S "$work/root" ] && kill -0 $! 2>/dev/null; do sleep 0.01; done

	# Two processors, as pre-dumps step back behind programs: beside a busy one on the only processor they took ten times as
	# long. One thread for both: with two, kernels that patch themselves die (int3 in __schedule, qemu 7.2).
	# The guest finds its ports by their numbers and the rest on its command line. In the background, so that traps work.
	setpriv --pdeathsig TERM timeout -k 2 "$limit_s" qemu-system-x86_64 -accel tcg,thread=single -cpu max -smp 2 -m "$memory_mib" \
		-nodefaults -no-user-config -no-reboot -display none -kernel "$vm/$kernel/vmlinuz" -initrd "$vm/$kernel/initrd" \
		-append "console=ttyS0 quiet panic=-1 mitigations=off vm.work=$work vm.home=$vm/$kernel vm.cwd=$PWD" \
		-serial "file:$work/console" -device virtio-serial-pci \
		-chardev "file,id=out,path=$work/out" -device virtserialport,chardev=out,nr=1 \
		-chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,nr=2 \
		-object "memory-backend-memfd,id=memory,size=${memory_mib}M,share=on" -numa node,memdev=memory \
		-chardev "socket,id=root,path=$work/root" -device vhost-user-fs-pci,chardev=root,tag=root \
		>"$work/qemu" 2>&1 &
	started="$started $!"
	ended=0
	wait $! || ended=$?
	: <>"$work/out"	# where qemu never opened it
	wait "$cat"
	started=

	[ ! -s "$work/status" ] || exit "$(cat "$work/status")"
	case $ended in
	124 | 137) echo "vm.sh: the guest was ended after $limit_s s" >&2; code=124 ;;
	*) echo 'vm.sh: the guest died' >&2; code=125 ;;
	esac
	tail -n 60 "$work/virtiofsd" "$work/qemu" "$work/console" >&2
	exit "$code"
}

case ${1:-} in
setup) setup ;;
run) shift; run "$@" ;;
*) sed -n '3,7s/^# //p' "$0" >&2; exit 2 ;;
esac
