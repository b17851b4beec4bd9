/*-------------------------------------------------------------------------
 *
 * misbehave.h
 *		What a sink must not do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MISBEHAVE_H
#define MISBEHAVE_H

#include "order_sink.h"

/* the sink's */
extern MemoryContext own_context;

extern void wait_until(TimestampTz until);
extern bool misbehave(const char *word, int number);
extern void misbehave_at_end(OiSinkEvent *events, int n);

#endif							/* MISBEHAVE_H */
