/*-------------------------------------------------------------------------
 *
 * shared_aside.h
 *		Work that blocks, done aside in a thread.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_ASIDE_H
#define SHARED_ASIDE_H

typedef struct OiAside OiAside;
typedef void (*OiAsideWork) (void *arg);

extern OiAside *oi_aside_start(OiAsideWork idle, int interval, void *arg,
							   const char *name);
extern void oi_aside_begin(OiAside *aside, OiAsideWork work, void *arg);
extern bool oi_aside_wait(OiAside *aside, int ms);
extern bool oi_aside_wait_quietly(OiAside *aside, int ms);
extern void oi_aside_end(OiAside *aside);

#endif							/* SHARED_ASIDE_H */
