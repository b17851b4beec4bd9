/*-------------------------------------------------------------------------
 *
 * stats_log.c
 *		A line in the server's log for each duplicate: setting log_duplicates.
 *
 * The line is a JSON object behind a fixed word, so that a program finds and
 * reads it.  The setting bounds how many a second there are; the next line
 * says how many were left out before it.  The bound is the server's, or the
 * session's where the library is not preloaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "guc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "stats_shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/* the bits of a limit's lines that count them; see log_duplicates' maximum */
#define COUNT_BITS 20
#define COUNT_MASK ((UINT64CONST(1) << COUNT_BITS) - 1)

/* Nothing was logged yet. */
void
oi_stats_limit_init(OiStatsLimit *limit)
{
	pg_atomic_init_u64(&limit->lines, 0);
	pg_atomic_init_u32(&limit->suppressed, 0);
}

/* The limit that holds for this process. */
static OiStatsLimit *
my_limit(void)
{
	static OiStatsLimit own;
	static bool ready = false;

	if (oi_stats != NULL)
		return &oi_stats->limit;
	if (!ready)
		oi_stats_limit_init(&own);
	ready = true;
	return &own;
}

/*
 * Is one more line allowed in this second?  Says how many were not before it.
 */
static bool
may_log(OiStatsLimit *limit, uint32 *suppressed)
{
	uint64		second = GetCurrentTimestamp() / USECS_PER_SEC;
	uint64		old = pg_atomic_read_u64(&limit->lines);
	uint64		new;

	do
	{
		new = (old >> COUNT_BITS) == second ? old + 1 : second << COUNT_BITS | 1;
		if ((new & COUNT_MASK) > (uint64) oi_log_duplicates)
		{
			pg_atomic_fetch_add_u32(&limit->suppressed, 1);
			return false;
		}
	} while (!pg_atomic_compare_exchange_u64(&limit->lines, &old, new));
	*suppressed = pg_atomic_exchange_u32(&limit->suppressed, 0);
	return true;
}

/* Appends a member of the object. */
static void
append_member(StringInfo line, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfoString(line, line->len == 0 ? "{" : ", ");
	escape_json(line, name);
	appendStringInfoString(line, ": ");
	escape_json(line, value);
}

/* Appends the key, as setting hot_keys lets it be seen. */
static void
append_key(StringInfo line, const text *key)
{
	char		hex[OI_STATS_HEX_LEN];

	if (oi_hot_keys == OI_HOT_KEYS_PLAIN)
		append_member(line, "key", text_to_cstring(key));
	else if (oi_hot_keys == OI_HOT_KEYS_HASH)
	{
		oi_stats_hash_key(key, hex);
		append_member(line, "key_sha256", hex);
	}
}

/* Logs a duplicate, unless there are too many. */
void
oi_stats_log(const OiStatsDuplicate *duplicate)
{
	StringInfoData line;
	uint32		suppressed;

	if (!may_log(my_limit(), &suppressed))
		return;

	initStringInfo(&line);
	append_member(&line, "function", duplicate->function);
	append_member(&line, "outcome", duplicate->outcome);
	append_member(&line, "database", get_database_name(MyDatabaseId));
	append_member(&line, "role", GetUserNameFromId(GetUserId(), true));
	if (duplicate->scope)
		append_member(&line, "scope", text_to_cstring(duplicate->scope));
	append_key(&line, duplicate->key);
	appendStringInfo(&line, ", \"suppressed\": %u}", suppressed);
	ereport(LOG_SERVER_ONLY,
			(errmsg_internal("duplicate call: %s", line.data),
			 errhidestmt(true), errhidecontext(true)));
	pfree(line.data);
}
