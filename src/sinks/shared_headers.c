/*-------------------------------------------------------------------------
 *
 * shared_headers.c
 *		Names and values of header lines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared_headers.h"

/*
 * Does a character stand for itself in a header?
 */
static inline bool
is_plain(unsigned char c)
{
	return c > 0x20 && c < 0x7f && c != '"' && c != '%';
}

/*
 * How many bytes from here on do?
 */
static size_t
plain_run(const char *at)
{
	size_t		n = 0;

	while (is_plain((unsigned char) at[n]))
		n++;
	return n;
}

/*
 * Append a value with what has no place in a header percent-encoded, as the HTTP
 * binding of CloudEvents wants it.
 */
void
oi_headers_append_value(StringInfo line, const char *value)
{
	while (*value != '\0')
	{
		size_t		run = plain_run(value);

		appendBinaryStringInfo(line, value, run);
		value += run;
		if (*value != '\0')
			appendStringInfo(line, "%%%02X", (unsigned char) *value++);
	}
}

/*
 * The same as a text of its own; the value itself where all of it is plain.
 */
const char *
oi_headers_value(const char *value)
{
	StringInfoData encoded;

	if (value[plain_run(value)] == '\0')
		return value;
	initStringInfo(&encoded);
	oi_headers_append_value(&encoded, value);
	return encoded.data;
}

/*
 * The name of an attribute behind a prefix: one of OI_HEADERS_NAMES(), or in memory
 * of the current context.
 */
const char *
oi_headers_name(const char *const *usual, const char *prefix, const char *name)
{
	size_t		len = strlen(prefix);

	for (int i = 0; i < OI_HEADERS_USUAL; i++)
		if (strcmp(usual[i] + len, name) == 0)
			return usual[i];
	return psprintf("%s%s", prefix, name);
}
