/*
 * driver.c
 *		For compilers without libFuzzer: the corpus, and inputs that are made of it at random from a
 *		seed, the same each time.
 *
 * Usage: TARGET INPUTS SEED FILE ...
 */
#include "server.h"

#include <sys/stat.h>

#define MOST 4096

static uint64 state;

/* splitmix64 */
static uint64
next_random(void)
{
	uint64		z = (state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

typedef struct Input
{
	size_t		size;
	uint8_t		bytes[MOST];
} Input;

/* Change an input a little: one of its bytes, a part of it, or a part of another in its place. */
static void
mutate(Input *input, const Input *other)
{
	static const char interesting[] = "\0\n\r\"\\/.:-+*$%_{}[],@#?' \x7f\xff\x80\xc3x09";
	size_t		at = input->size ? next_random() % input->size : 0;
	size_t		len;

	switch (next_random() % 6)
	{
		case 0:
			if (input->size > 0)
				input->bytes[at] ^= 1 << (next_random() % 8);
			break;
		case 1:
			if (input->size > 0)
				input->bytes[at] = interesting[next_random() % (sizeof(interesting) - 1)];
			break;
		case 2:
			if (input->size < MOST)
			{
				memmove(input->bytes + at + 1, input->bytes + at, input->size - at);
				input->bytes[at] = interesting[next_random() % (sizeof(interesting) - 1)];
				input->size++;
			}
			break;
		case 3:
			if (input->size > 0)
			{
				len = 1 + next_random() % Min(input->size - at, 16);
				memmove(input->bytes + at, input->bytes + at + len, input->size - at - len);
				input->size -= len;
			}
			break;
		case 4:
			if (other->size > 0)
			{
				size_t		from = next_random() % other->size;

				len = Min(other->size - from, MOST - at);
				memcpy(input->bytes + at, other->bytes + from, len);
				input->size = Max(input->size, at + len);
			}
			break;
		default:
			if (input->size > 0)
			{
				len = Min(1 + next_random() % 64, MOST - input->size);
				memmove(input->bytes + at + len, input->bytes + at, input->size - at);
				input->size += len;
			}
			break;
	}
}

/* Have one run in memory of its own size, so that a read behind its end is seen. */
static void
run(const Input *input)
{
	uint8_t    *exact = malloc(input->size + 1);

	memcpy(exact, input->bytes, input->size);
	exact = realloc(exact, Max(input->size, 1));
	LLVMFuzzerTestOneInput(exact, input->size);
	free(exact);
}

int
main(int argc, char **argv)
{
	int			n = argc - 3;
	long		inputs;
	Input	   *corpus;
	static Input input;

	if (n < 1)
		return 2;
	inputs = atol(argv[1]);
	state = strtoull(argv[2], NULL, 10);
	corpus = calloc(n, sizeof(Input));
	for (int i = 0; i < n; i++)
	{
		FILE	   *file = fopen(argv[3 + i], "rb");

		FUZZ_CHECK(file != NULL);
		corpus[i].size = fread(corpus[i].bytes, 1, MOST, file);
		fclose(file);
		run(&corpus[i]);
	}
	for (long i = 0; i < inputs; i++)
	{
		input = corpus[next_random() % n];
		for (int changes = 1 + next_random() % 8; changes > 0; changes--)
			mutate(&input, &corpus[next_random() % n]);
		run(&input);
	}
	printf("%d files and %ld inputs\n", n, inputs);
	free(corpus);
	return 0;
}
