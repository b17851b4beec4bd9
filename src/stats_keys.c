/*-------------------------------------------------------------------------
 *
 * stats_keys.c
 *		The most retried keys.
 *
 * Of each hour as many as OI_STATS_KEYS are kept, by the algorithm
 * "space-saving": a key that is not there takes the place of the one with the
 * fewest retries, and goes on counting from that one's number, of which it
 * notes that it may be too much.  So a key with more than one in
 * OI_STATS_KEYS of all retries of the hour is certainly there, and the
 * number shown less the number noted is not too high.
 *
 * The current hour and the one before are shown together.  Numbers of all
 * time would show what was hot once.
 *
 * A retry that finds the lock taken is not counted here: a call must not wait
 * for this, and where retries come so fast the hot ones are found all the
 * same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha2.h"
#include "guc.h"
#include "mb/pg_wchar.h"
#include "stats_shmem.h"
#include "utils/timestamp.h"

/* so much of a key's SHA-256 is kept and shown */
#define HASH_BYTES ((OI_STATS_HEX_LEN - 1) / 2)

/* the end of a chain */
#define NO_PLACE 255

/* The lock for the keys of a database. */
LWLock *
oi_stats_key_lock(const OiStatsDatabase *db)
{
	return &oi_stats->key_locks[db - oi_stats->databases].lock;
}

/* The hour that a time is in. */
static int64
hour_of(TimestampTz at)
{
	return at / USECS_PER_HOUR;
}

/* A key as hot_keys = hash shows it. */
void
oi_stats_hash_key(const text *key, char *hex)
{
	static const char digits[] = "0123456789abcdef";
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	uint8		hash[PG_SHA256_DIGEST_LENGTH];

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) < 0 ||
		pg_cryptohash_final(context, hash, sizeof(hash)) < 0)
		memset(hash, 0, sizeof(hash));
	pg_cryptohash_free(context);
	for (int i = 0; i < HASH_BYTES; i++)
	{
		hex[2 * i] = digits[hash[i] >> 4];
		hex[2 * i + 1] = digits[hash[i] & 15];
	}
	hex[2 * HASH_BYTES] = '\0';
}

/* What tells a key from others. */
static uint64
identity(const OiStatsDuplicate *duplicate)
{
	uint64		hash = oi_hot_keys;

	if (duplicate->scope)
		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(duplicate->scope),
								   VARSIZE_ANY_EXHDR(duplicate->scope),
								   hash + OI_HOT_KEYS_PLAIN + 1);
	return hash_bytes_extended((unsigned char *) VARDATA_ANY(duplicate->key),
							   VARSIZE_ANY_EXHDR(duplicate->key), hash);
}

/* Fills a place with a key; hex is its hash, where that is to be kept instead. */
static void
fill_key(OiStatsKey *key, const OiStatsDuplicate *duplicate, const char *hex)
{
	key->order = duplicate->scope == NULL;
	key->hashed = hex[0] != '\0';
	key->scope_len = 0;
	if (duplicate->scope)
	{
		int			len = VARSIZE_ANY_EXHDR(duplicate->scope);

		if (len > OI_STATS_SCOPE_LEN)
			len = pg_mbcliplen(VARDATA_ANY(duplicate->scope), len, OI_STATS_SCOPE_LEN);
		memcpy(key->text, VARDATA_ANY(duplicate->scope), len);
		key->scope_len = len;
	}
	key->key_len = key->hashed ? OI_STATS_HEX_LEN - 1 : VARSIZE_ANY_EXHDR(duplicate->key);
	memcpy(key->text +key->scope_len,
		   key->hashed ? hex : VARDATA_ANY(duplicate->key), key->key_len);
}

/* Begins an hour. */
static void
begin_hour(OiStatsKeys *keys, int64 hour)
{
	keys->hour = hour;
	keys->n = 0;
	keys->least = 0;
	keys->next = 0;
	memset(keys->heads, NO_PLACE, sizeof(keys->heads));
}

/* The chain that a key's place is in. */
static inline uint8 *
chain_of(OiStatsKeys *keys, uint64 hash)
{
	return &keys->heads[hash % OI_STATS_KEYS];
}

/* The place of a key, or NO_PLACE. */
static uint8
find_place(OiStatsKeys *keys, uint64 hash)
{
	uint8		place = *chain_of(keys, hash);

	while (place != NO_PLACE && keys->hashes[place] != hash)
		place = keys->links[place];
	return place;
}

/*
 * The place of the key with the fewest retries, taken from it.  A number
 * never goes down, so all keys are looked through once for each number that
 * is the least.
 */
static uint8
empty_place(OiStatsKeys *keys)
{
	uint8	   *link;

	while (keys->next == OI_STATS_KEYS ||
		   keys->retries[keys->next] != keys->least)
	{
		if (keys->next < OI_STATS_KEYS)
		{
			keys->next++;
			continue;
		}
		keys->next = 0;
		keys->least = keys->retries[0];
		for (int i = 1; i < OI_STATS_KEYS; i++)
			keys->least = Min(keys->least, keys->retries[i]);
	}

	link = chain_of(keys, keys->hashes[keys->next]);
	while (*link != keys->next)
		link = &keys->links[*link];
	*link = keys->links[keys->next];
	return keys->next++;
}

/* A place for a key that has none. */
static uint8
take_place(OiStatsKeys *keys, uint64 hash)
{
	uint8		place;

	if (keys->n < OI_STATS_KEYS)
	{
		place = keys->n++;
		keys->over[place] = 0;
	}
	else
	{
		place = empty_place(keys);
		keys->over[place] = keys->retries[place];
	}
	keys->retries[place] = keys->over[place];
	keys->hashes[place] = hash;
	keys->links[place] = *chain_of(keys, hash);
	*chain_of(keys, hash) = place;
	return place;
}

/* A call was a retry of this key. */
void
oi_stats_note_key(const OiStatsDuplicate *duplicate)
{
	OiStatsDatabase *db = oi_stats_my_database();
	TimestampTz now = GetCurrentStatementStartTimestamp();
	char		hex[OI_STATS_HEX_LEN] = "";
	OiStatsKeys *keys;
	uint64		hash;
	uint8		place;

	if (db == NULL)
		return;
	hash = identity(duplicate);
	if (oi_hot_keys == OI_HOT_KEYS_HASH)
		oi_stats_hash_key(duplicate->key, hex);
	if (!LWLockConditionalAcquire(oi_stats_key_lock(db), LW_EXCLUSIVE))
		return;
	keys = &db->hours[hour_of(now) & 1];
	if (keys->hour != hour_of(now))
		begin_hour(keys, hour_of(now));
	place = find_place(keys, hash);
	if (place == NO_PLACE)
	{
		place = take_place(keys, hash);
		fill_key(&keys->keys[place], duplicate, hex);
	}
	keys->retries[place]++;
	keys->keys[place].last_at = now;
	LWLockRelease(oi_stats_key_lock(db));
}

/* Adds the keys of an hour to those found before. */
static int
add_keys(const OiStatsKeys *keys, OiStatsKeyCount *found, int n)
{
	int			others = n;

	for (int i = 0; i < keys->n; i++)
	{
		int			j = 0;

		while (j < others && found[j].hash != keys->hashes[i])
			j++;
		if (j == others)
		{
			j = n++;
			memset(&found[j], 0, sizeof(OiStatsKeyCount));
			found[j].hash = keys->hashes[i];
			found[j].key = keys->keys[i];
		}
		found[j].retries += keys->retries[i];
		found[j].over += keys->over[i];
	}
	return n;
}

/*
 * The keys of the hour that a time is in and of the one before, at most twice
 * OI_STATS_KEYS.  Returns how many.
 */
int
oi_stats_keys(OiStatsDatabase *db, TimestampTz at, OiStatsKeyCount *found)
{
	int64		now = hour_of(at);
	int			n = 0;

	LWLockAcquire(oi_stats_key_lock(db), LW_SHARED);
	for (int64 hour = now; hour >= now - 1; hour--)
		if (db->hours[hour & 1].hour == hour)
			n = add_keys(&db->hours[hour & 1], found, n);
	LWLockRelease(oi_stats_key_lock(db));
	return n;
}
