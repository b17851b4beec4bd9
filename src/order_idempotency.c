/*-------------------------------------------------------------------------
 *
 * order_idempotency.c
 *		Loading the library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "generation.h"
#include "guc.h"
#include "launcher.h"
#include "order.h"
#include "relation.h"
#include "rules.h"
#include "shmem.h"
#include "stats.h"
#include "xact.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* The server calls this once a process, or once in the postmaster. */
void
_PG_init(void)
{
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
