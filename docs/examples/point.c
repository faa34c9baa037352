/*
 * A program whose own start-up takes long, and which says where that ends:
 *
 *	cc -O2 -o primes point.c
 *	./primes 9999991
 *	residentctl add --warm ./primes
 *	residentctl run --explain ./primes 9999991
 *
 * Run as usual, it makes its table first. From its image it starts with the table made.
 */
#include <stdio.h>
#include <stdlib.h>

#include <residentctl.h>

enum { LIMIT = 10000000 };

static unsigned char composite[LIMIT];

static void make_table(void)
{
	long n, m;

	composite[0] = composite[1] = 1;
	for (n = 2; n * n < LIMIT; n++)
		for (m = n * n; !composite[n] && m < LIMIT; m += n)
			composite[m] = 1;
}

int main(int argc, char **argv)
{
	struct residentctl_start start;
	int i;

	make_table(); /* needs neither arguments nor environment */
	if (residentctl_point(&start))
		residentctl_arguments(&start, &argc, &argv);

	for (i = 1; i < argc; i++) {
		long n = strtol(argv[i], NULL, 10);

		if (n < 0 || n >= LIMIT) {
			fprintf(stderr, "primes: %s: not between 0 and %d\n", argv[i], LIMIT - 1);
			return 1;
		}
		printf("%ld: %s\n", n, composite[n] ? "not prime" : "prime");
	}
	return 0;
}
