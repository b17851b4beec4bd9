/*-------------------------------------------------------------------------
 *
 * coverage.h
 *		Included in front of every file where coverage is measured.
 *
 * What a process counted is written by exit().  Who ends by _exit() writes
 * it before.
 *
 *-------------------------------------------------------------------------
 */
#include <unistd.h>

extern void __gcov_dump(void);

#define _exit(code) (__gcov_dump(), (_exit) (code))
