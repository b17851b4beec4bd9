/*-------------------------------------------------------------------------
 *
 * common.h
 *		What the benchmark's programs have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Ends the process with a message. */
static inline void
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("bench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* Seconds of a clock. */
static inline double
seconds_of(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Sleeps until a time of CLOCK_MONOTONIC, if that has not come yet. */
static inline void
sleep_until(double when)
{
	struct timespec until = {.tv_sec = (time_t) when};

	until.tv_nsec = (long) ((when - (double) until.tv_sec) * 1e9);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
		;
}

#endif							/* BENCH_COMMON_H */
