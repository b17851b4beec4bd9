/*
 * server.h
 *		What stands in for the server where its absence has to be bridged: memory that
 *		goes with each input, and errors that end it.
 */
#ifndef FUZZ_SERVER_H
#define FUZZ_SERVER_H

#include "postgres.h"

#include <setjmp.h>

/* where an ERROR goes; what it said */
extern sigjmp_buf fuzz_error;
extern char fuzz_message[1024];

/* run what may raise an ERROR: true, it did not */
#define FUZZ_TRY() (sigsetjmp(fuzz_error, 0) == 0)

/* an input that must not be possible */
#define FUZZ_CHECK(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

/* one input, taken apart */
extern char *fuzz_word(const uint8_t **data, size_t *size);
extern void fuzz_free_all(void);

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif							/* FUZZ_SERVER_H */
