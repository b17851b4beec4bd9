/*-------------------------------------------------------------------------
 *
 * version.c
 *		Which version of the library this is.
 *
 * The library and the extension's SQL objects are updated separately: the one
 * by a restart of the server, the others by ALTER EXTENSION UPDATE.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "fmgr.h"
#include "utils/builtins.h"

/* "make checkver" compares it with what else names the version */
#define OI_VERSION "1.1"

OI_MODULE_MAGIC("order_idempotency", OI_VERSION);

PG_FUNCTION_INFO_V1(oi_library_version);

/* library_version(): the version of the library that is loaded. */
Datum
oi_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(OI_VERSION));
}
