/*-------------------------------------------------------------------------
 *
 * held.c
 *		The keys that wait for an event of theirs that failed.
 *
 * A copy, in the worker's memory, of what matters of table failed_events:
 * for each key that has rows there, the first one and when that is due.  It
 * is read from the table when the worker starts or anybody else changed the
 * rows, and follows what the worker records.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "held.h"
#include "utils/memutils.h"

/*
 * Comparator of the heap: what is due first, and of that the lowest position,
 * is on top.
 */
static int
compare_due(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const OiHeldKey *x = pairingheap_const_container(OiHeldKey, node, a);
	const OiHeldKey *y = pairingheap_const_container(OiHeldKey, node, b);

	if (x->due != y->due)
		return x->due < y->due ? 1 : -1;
	return x->head < y->head ? 1 : x->head > y->head ? -1 : 0;
}

/*
 * Note when the first one is due.
 */
static void
note_due(OiHeld *held)
{
	held->next_due = pairingheap_is_empty(held->by_due) ? OI_UNDUE :
		pairingheap_container(OiHeldKey, node, pairingheap_first(held->by_due))->due;
}

/*
 * No key is held.
 */
void
oi_held_reset(OiHeld *held)
{
	HASHCTL		ctl = {.keysize = OI_HELD_KEY_SIZE,.entrysize = sizeof(OiHeldKey)};

	if (held->keys != NULL)
		hash_destroy(held->keys);
	ctl.hcxt = TopMemoryContext;
	held->keys = hash_create("order_idempotency held keys", 64, &ctl,
							 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	if (held->by_due == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		held->by_due = pairingheap_allocate(compare_due, NULL);
		MemoryContextSwitchTo(old);
	}
	pairingheap_reset(held->by_due);
	note_due(held);
}

/*
 * How many keys are held?
 */
int
oi_held_count(const OiHeld *held)
{
	return (int) hash_get_num_entries(held->keys);
}

/*
 * Is a key held?
 */
bool
oi_held_has(const OiHeld *held, const char *key)
{
	return oi_held_count(held) > 0 &&
		hash_search(held->keys, key, HASH_FIND, NULL) != NULL;
}

/*
 * This is a key's head, whatever it was before.
 */
void
oi_held_put(OiHeld *held, const char *key, int64 head, TimestampTz due)
{
	bool		found;
	OiHeldKey  *entry = hash_search(held->keys, key, HASH_ENTER, &found);

	if (found)
		pairingheap_remove(held->by_due, &entry->node);
	entry->head = head;
	entry->due = due;
	pairingheap_add(held->by_due, &entry->node);
	note_due(held);
}

/*
 * A key has this event, too: it is the head if it comes before the others.
 */
void
oi_held_add(OiHeld *held, const char *key, int64 position, TimestampTz due)
{
	OiHeldKey  *entry = hash_search(held->keys, key, HASH_FIND, NULL);

	if (entry == NULL || position < entry->head)
		oi_held_put(held, key, position, due);
}

/*
 * Let go of a key.
 */
void
oi_held_drop(OiHeld *held, const char *key)
{
	OiHeldKey  *entry = hash_search(held->keys, key, HASH_FIND, NULL);

	if (entry == NULL)
		return;
	pairingheap_remove(held->by_due, &entry->node);
	note_due(held);
	(void) hash_search(held->keys, key, HASH_REMOVE, NULL);
}

/*
 * The first keys that are due, at most so many, in the current context.
 */
OiHeldKey **
oi_held_due(OiHeld *held, TimestampTz now, int most, int *n)
{
	OiHeldKey **due = palloc(sizeof(OiHeldKey *) * Max(1, most));

	*n = 0;
	while (*n < most && held->next_due <= now && held->next_due != OI_UNDUE)
	{
		due[(*n)++] = pairingheap_container(OiHeldKey, node,
											pairingheap_remove_first(held->by_due));
		note_due(held);
	}

	/* they are due until something becomes of them */
	for (int i = 0; i < *n; i++)
		pairingheap_add(held->by_due, &due[i]->node);
	note_due(held);

	return due;
}
