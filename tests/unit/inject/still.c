/* SPDX-License-Identifier: Apache-2.0 */
/* still.c - says when it has started and waits until its input ends. */
#include <unistd.h>

int main(void)
{
	char c = '\n';

	if (write(1, &c, 1) != 1)
		return 1;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
