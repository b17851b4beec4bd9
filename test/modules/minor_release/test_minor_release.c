/*-------------------------------------------------------------------------
 *
 * test_minor_release.c
 *		A server that takes itself for another minor release, for tests.
 *
 * To be preloaded before what is to believe it.  The environment variable
 * TEST_MINOR_RELEASE is the release's number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/*
 * All settings of the server, and how many there are.
 */
static struct config_generic **
settings(int *n)
{
#if PG_VERSION_NUM >= 160000
	return get_guc_variables(n);
#else
	*n = GetNumConfigOptions();
	return get_guc_variables();
#endif
}

/*
 * Called when the library is loaded.  The setting has one allowed value, so it
 * is not changed by the server's own functions.
 */
void
_PG_init(void)
{
	const char *minor = getenv("TEST_MINOR_RELEASE");
	struct config_generic **all;
	int			n;

	if (minor == NULL)
		return;
	all = settings(&n);
	for (int i = 0; i < n; i++)
		if (strcmp(all[i]->name, "server_version_num") == 0)
			*((struct config_int *) all[i])->variable =
				PG_VERSION_NUM / 10000 * 10000 + atoi(minor);
}
