/*-------------------------------------------------------------------------
 *
 * shared_keys.c
 *		Which event of a batch follows which one of the same key.
 *
 * A sink that has several events under way must not have two of one key: if the
 * first is not taken by the receiver, the second one would be there before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "shared_keys.h"
#include "utils/hsearch.h"

/*
 * Link each event to the next of its key, and queue those that are the first.
 * All memory is of the current context.
 */
void
oi_keys_queue(OiKeyQueue *queue, const OiSinkEvent *events, int n)
{
	HASHCTL		ctl = {0};
	HTAB	   *last;

	typedef struct
	{
		uint64		hash;
		int			event;
	}			Last;

	queue->next = palloc(sizeof(int) * n);
	queue->ready = palloc(sizeof(int) * n);
	queue->first = queue->n = 0;
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(Last);
	ctl.hcxt = CurrentMemoryContext;
	last = hash_create("order_idempotency keys of a batch", n, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < n; i++)
	{
		const char *key = events[i].key;
		uint64		hash = hash_bytes_extended((const unsigned char *) key, strlen(key), 0);
		bool		found;
		Last	   *entry = hash_search(last, &hash, HASH_ENTER, &found);

		/* keys that share a hash only wait for each other */
		queue->next[i] = -1;
		if (found)
			queue->next[entry->event] = i;
		else
			queue->ready[queue->n++] = i;
		entry->event = i;
	}
	hash_destroy(last);
}
