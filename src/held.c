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
	held->next_due = OI_UNDUE;
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
	OiHeldKey  *entry = hash_search(held->keys, key, HASH_ENTER, NULL);

	entry->head = head;
	entry->due = due;
	held->next_due = Min(held->next_due, due);
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
	(void) hash_search(held->keys, key, HASH_REMOVE, NULL);
}

/*
 * qsort comparator: by position.
 */
static int
compare_heads(const void *a, const void *b)
{
	int64		x = (*(OiHeldKey *const *) a)->head;
	int64		y = (*(OiHeldKey *const *) b)->head;

	return x < y ? -1 : x > y;
}

/*
 * The keys that are due, in the order of their heads, in the current context.
 */
OiHeldKey **
oi_held_due(OiHeld *held, TimestampTz now, int *n)
{
	OiHeldKey **due = palloc(sizeof(OiHeldKey *) * (oi_held_count(held) + 1));
	HASH_SEQ_STATUS scan;
	OiHeldKey  *entry;

	*n = 0;
	held->next_due = OI_UNDUE;
	hash_seq_init(&scan, held->keys);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		held->next_due = Min(held->next_due, entry->due);
		if (entry->due <= now)
			due[(*n)++] = entry;
	}
	qsort(due, *n, sizeof(OiHeldKey *), compare_heads);

	return due;
}
