/*-------------------------------------------------------------------------
 *
 * fault.h
 *		Places where a test has something go wrong.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_FAULT_H
#define OI_FAULT_H

typedef void (*OiFault) (const char *point);

/* NULL but in tests */
extern OiFault oi_fault;

/* for tests: call this, in this process and those forked from it */
extern PGDLLEXPORT void oi_set_fault(OiFault fault);

/* a place of that name in a sink */
extern PGDLLEXPORT void oi_sink_fault(const char *point);

/* a place of that name; never on a session's path */
#define OI_FAULT_POINT(point) \
	do { \
		if (unlikely(oi_fault != NULL)) \
			oi_fault(point); \
	} while (0)

#endif							/* OI_FAULT_H */
