#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# deps.sh [build] [test] [vm] [lint]: installs what the named jobs need from Debian's packages (all jobs where none is named).
# Quick when everything is there. Services that packages would start by themselves are kept from starting.
set -eu

build='gcc libc6-dev meson ninja-build pkg-config protobuf-compiler protobuf-c-compiler libprotobuf-c-dev libxxhash-dev liblz4-dev libzstd-dev libmnl-dev libssl-dev libcmocka-dev'
test='python3 python3-pytest python3-pytest-timeout redis-server nginx-light nodejs debootstrap criu openssl clang libclang-rt-14-dev iproute2 iperf3 rsync zstd'
vm='qemu-system-x86 qemu-system-common busybox-static kmod xz-utils'
lint='git clang-format clang-tidy'

wanted=
for job in "${@:-all}"; do
	case $job in
	build) wanted="$wanted $build" ;;
	test) wanted="$wanted $test" ;;
	vm) wanted="$wanted $vm" ;;
	lint) wanted="$wanted $lint" ;;
	all) wanted="$build $test $vm $lint" ;;
	*) echo "deps.sh: no such job: $job" >&2; exit 2 ;;
	esac
done

missing=
for package in $wanted; do
	case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true) in
	'install ok installed') ;;
	*) missing="$missing $package" ;;
	esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "deps.sh: as root, install:$missing" >&2
	exit 1
fi

# invoke-rc.d asks policy-rc.d before it starts anything: 101 says no.
policy=/usr/sbin/policy-rc.d
aside=$policy.ferry-aside
restore_policy() {
	rm -f "$policy"
	[ ! -e "$aside" ] || mv "$aside" "$policy"
}
[ ! -e "$policy" ] || mv "$policy" "$aside"
trap restore_policy EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
install() {
	# shellcheck disable=SC2086
	apt-get install -y -q --no-install-recommends $missing
}
# Lists may be missing or old: then, and only then, they are fetched.
if ! install; then
	apt-get update -q
	install
fi
