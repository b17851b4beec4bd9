/*-------------------------------------------------------------------------
 *
 * shared_options.c
 *		Reading options, which the validators have checked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared_options.h"
#include "utils/builtins.h"

/*
 * A copy of the value of an option in the current context, or its default.
 */
const char *
oi_option_text(List *options, const char *name, const char *otherwise)
{
	const char *value = oi_sink_option(options, name);

	return value ? pstrdup(value) : otherwise;
}

/*
 * A whole number.
 */
int
oi_option_number(List *options, const char *name, int otherwise)
{
	const char *value = oi_sink_option(options, name);

	return value ? pg_strtoint32(value) : otherwise;
}

/*
 * A boolean.
 */
bool
oi_option_boolean(List *options, const char *name, bool otherwise)
{
	const char *value = oi_sink_option(options, name);
	bool		on;

	return value && parse_bool(value, &on) ? on : otherwise;
}
