/*-------------------------------------------------------------------------
 *
 * order_idempotency.c
 *		Loading the library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "compat.h"
#include "generation.h"
#include "guc.h"
#include "launcher.h"
#include "order.h"
#include "relation.h"
#include "rules.h"
#include "shmem.h"
#include "stats.h"
#include "utils/guc.h"
#include "xact.h"

PGDLLEXPORT void _PG_init(void);

/*
 * Say where the server itself lets serializable transactions commit that are
 * not: a minor release older than what this was built with may load it.
 */
static void
check_server(void)
{
	if (atoi(GetConfigOption("server_version_num", false, false)) >= OI_SERIALIZABLE_SINCE)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this release of PostgreSQL misses conflicts of serializable transactions"),
			 errdetail("Two of them that look for a key in a table without rows may both commit."),
			 errhint("Update PostgreSQL to %d.%d or later.",
					 OI_SERIALIZABLE_SINCE / 10000, OI_SERIALIZABLE_SINCE % 10000)));
}

/* The server calls this once a process, or once in the postmaster. */
void
_PG_init(void)
{
	check_server();
	oi_guc_init();
	oi_relation_init();
	oi_generation_init();
	oi_rules_init();
	oi_guard_init();
	oi_xact_init();
	oi_shmem_init();
	oi_stats_init();
	oi_launcher_register();
}
