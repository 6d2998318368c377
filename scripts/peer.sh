#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# peer.sh: makes the peer that ferry is tested and measured against, CRIU from Debian's sid, which runs on new kernels
# where Debian 12's own does not. It lies in $FERRY_PEER (build/peer where unset) and installs nothing on this system.
# Prints the path of the wrapper that runs it. Quick when it is there.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
peer=${FERRY_PEER:-$top/build/peer}
tested=4.2.1
mirror=${FERRY_MIRROR:-http://deb.debian.org/debian}

version() { "$peer/criu" --version | sed -n 's/^Version: *//p'; }

if [ ! -x "$peer/criu" ] || [ -z "$(version)" ]; then
	rm -rf "$peer"
	mkdir -p "$peer"
	log=$peer/debootstrap.log
	# In a mount namespace of its own: what it mounts goes with it, however it ends (in a plain chroot debootstrap cleans up).
	mountpoint -q / && spread=private || spread=unchanged
	if ! unshare --mount --propagation "$spread" debootstrap --variant=minbase --include=criu sid "$peer/root" "$mirror" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "peer.sh: debootstrap failed, its log is $log" >&2
		exit 1
	fi
	# Its own loader and libraries, on this system's root.
	cat >"$peer/criu" <<END
#!/bin/sh
root=$peer/root
exec "\$root/lib64/ld-linux-x86-64.so.2" --library-path "\$root/lib/x86_64-linux-gnu:\$root/usr/lib/x86_64-linux-gnu" "\$root/usr/sbin/criu" "\$@"
END
	chmod 755 "$peer/criu"
fi

case $(version) in
"$tested") ;;
4.[2-9]* | [5-9]*) echo "peer.sh: the peer is CRIU $(version); $tested is what was tried" >&2 ;;
*) echo "peer.sh: the peer does not run or is too old: '$(version)'" >&2; exit 1 ;;
esac
echo "$peer/criu"
