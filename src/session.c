/*-------------------------------------------------------------------------
 *
 * session.c
 *		What the sessions of background processes have in common.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "session.h"
#include "utils/guc.h"

/* a setting of the session */
typedef struct Setting
{
	const char *name;
	const char *value;
} Setting;

/* what a process needs whatever its role or the database has set */
static const Setting safe_settings[] = {
	{"client_min_messages", "warning"},
	{"default_transaction_deferrable", "off"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"jit", "off"},
	{"lock_timeout", "0"},
	{"order_idempotency.in_flight_wait", "0"},
	{"row_security", "on"},
	{"search_path", "pg_catalog, pg_temp"},
	{"session_replication_role", "origin"},
	{"statement_timeout", "0"},
	{"synchronous_commit", "on"},
};

/* what makes plans the same whatever the statistics are */
static const Setting plan_settings[] = {
	{"enable_bitmapscan", "off"},
	{"enable_hashjoin", "off"},
	{"enable_indexscan", "on"},
	{"enable_material", "off"},
	{"enable_mergejoin", "off"},
	{"enable_nestloop", "on"},
	{"enable_seqscan", "off"},
	{"enable_sort", "off"},
	{"plan_cache_mode", "force_generic_plan"},
};

/*
 * Override what the role's or the database's settings say.
 */
static void
override(const Setting *settings, int n)
{
	for (int i = 0; i < n; i++)
		SetConfigOption(settings[i].name, settings[i].value,
						PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Called once a process has connected.
 */
void
oi_session_settle(void)
{
	override(safe_settings, lengthof(safe_settings));
}

/*
 * For a process that runs no queries but ours.
 */
void
oi_session_fix_plans(void)
{
	override(plan_settings, lengthof(plan_settings));
}

/*
 * What has to be done wherever a process waits or begins anew.  True: the
 * settings were read again.
 */
bool
oi_session_interrupts(void)
{
	bool		reload = ConfigReloadPending;

	CHECK_FOR_INTERRUPTS();
	if (reload)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	return reload;
}
