/*-------------------------------------------------------------------------
 *
 * session.c
 *		What the sessions of background processes have in common.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
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
	OI_COMPAT_SAFE_SETTINGS
};

/*
 * Called once a process has connected: override what the role's or the database's
 * settings say.
 */
void
oi_session_settle(void)
{
	for (size_t i = 0; i < lengthof(safe_settings); i++)
		SetConfigOption(safe_settings[i].name, safe_settings[i].value,
						PGC_SUSET, PGC_S_OVERRIDE);
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
