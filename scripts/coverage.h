/*-------------------------------------------------------------------------
 *
 * coverage.h
 *		Included in front of every file where coverage is measured.
 *
 * Each library has its own counters, and its own function to write them.
 * scripts/coverage_end.c, where it is preloaded, is told of that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COVERAGE_H
#define COVERAGE_H

extern void __gcov_dump(void);
extern void coverage_library(void (*dump) (void), int loaded) __attribute__((weak));

/*
 * The library was loaded.
 */
__attribute__((constructor)) static void
coverage_loaded(void)
{
	if (coverage_library)
		coverage_library(__gcov_dump, 1);
}

/*
 * It is about to be unloaded.
 */
__attribute__((destructor)) static void
coverage_unloaded(void)
{
	if (coverage_library)
		coverage_library(__gcov_dump, 0);
}

#endif							/* COVERAGE_H */
