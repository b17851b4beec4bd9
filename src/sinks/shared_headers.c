/*-------------------------------------------------------------------------
 *
 * shared_headers.c
 *		Values in header lines.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shared_headers.h"

/*
 * Append a value with what has no place in a header percent-encoded, as the HTTP
 * binding of CloudEvents wants it.
 */
void
oi_headers_append_value(StringInfo line, const char *value)
{
	for (const unsigned char *at = (const unsigned char *) value; *at != '\0'; at++)
	{
		if (*at > 0x20 && *at < 0x7f && *at != '"' && *at != '%')
			appendStringInfoChar(line, *at);
		else
			appendStringInfo(line, "%%%02X", *at);
	}
}
