/*-------------------------------------------------------------------------
 *
 * shared_keys.h
 *		Which event of a batch follows which one of the same key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SHARED_KEYS_H
#define SHARED_KEYS_H

#include "order_sink.h"

/*
 * A batch as a queue of those that may be sent: the first of each key, and
 * later ones as those before them are delivered.
 */
typedef struct OiKeyQueue
{
	int		   *next;			/* the next event of the same key, or -1 */
	int		   *ready;			/* events that may be sent, in that order */
	int			first;			/* of ready, those before it were taken */
	int			n;				/* of ready */
} OiKeyQueue;

extern void oi_keys_queue(OiKeyQueue *queue, const OiSinkEvent *events, int n);

/*
 * Are there events that may be sent?
 */
static inline bool
oi_keys_ready(const OiKeyQueue *queue)
{
	return queue->first < queue->n;
}

/*
 * Take the first of these.
 */
static inline int
oi_keys_take(OiKeyQueue *queue)
{
	return queue->ready[queue->first++];
}

/*
 * An event was delivered: the next of its key may be sent.
 */
static inline void
oi_keys_delivered(OiKeyQueue *queue, int event)
{
	if (queue->next[event] >= 0)
		queue->ready[queue->n++] = queue->next[event];
}

#endif							/* SHARED_KEYS_H */
