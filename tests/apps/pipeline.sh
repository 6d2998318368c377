# SPDX-License-Identifier: Apache-2.0
# The pipeline that test_bash.py dumps: a number every few milliseconds, through four processes, into the file `out`.
# The FIFO is never written: it is there for `read -t` to wait at.
mkfifo never
exec 9<>never
n=0
while :; do
	echo $((n++))
	read -r -t 0.003 -u 9
done | sed -u 's/.*/<&>/' | grep --line-buffered '^<' | while read -r line; do
	echo "$line" >>out
done
