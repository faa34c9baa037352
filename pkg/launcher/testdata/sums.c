/* Prints what the launcher's checksum gives for 0 to 40 words. */
#include "launcher.c"

int printf(const char *, ...);

_Noreturn void leave(const struct leave *l)
{
	for (;;)
		__asm__ volatile("" : : "r"(l));
}

int main(void)
{
	u64 words[40], x = 1;
	int i;

	for (i = 0; i < 40; i++)
		words[i] = x = x * 6364136223846793005UL + 1442695040888963407UL;
	for (i = 0; i <= 40; i++)
		printf("%lx\n", checksum(words, i));
	return 0;
}
