/*-------------------------------------------------------------------------
 *
 * utf8.c
 *		Text for the outside world, which is UTF-8 whatever the database's is.
 *
 * An event that cannot be put into UTF-8 must not hold up all those behind
 * it, so what cannot be is replaced.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utf8.h"

/* stands for a character that UTF-8 has not, or for a byte that is none */
#define REPLACEMENT "\xEF\xBF\xBD"

/*
 * Text of a SQL_ASCII database, which may be of any encoding or none: what
 * is not UTF-8 is replaced, byte by byte.
 */
static char *
utf8_from_unknown(const char *text, int len)
{
	StringInfoData out;

	initStringInfo(&out);
	while (len > 0)
	{
		int			valid = pg_encoding_verifymbstr(PG_UTF8, text, len);

		appendBinaryStringInfo(&out, text, valid);
		text	  +=valid;

		len -= valid;
		if (len > 0)
		{
			appendStringInfoString(&out, REPLACEMENT);
			text	  ++;

			len--;
		}
	}
	return out.data;
}

/*
 * Text of a database of another encoding: characters that UTF-8 has no place
 * for are replaced.
 */
static char *
utf8_from_encoding(const char *text, int len)
{
	int			encoding = GetDatabaseEncoding();
	Oid			proc = FindDefaultConversionProc(encoding, PG_UTF8);
	StringInfoData out;

	if (!OidIsValid(proc))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("no conversion from encoding \"%s\" to UTF8",
						pg_encoding_to_char(encoding))));

	initStringInfo(&out);
	while (len > 0)
	{
		int			room = len * MAX_CONVERSION_GROWTH + 1;
		int			done;

		enlargeStringInfo(&out, room);
		done = pg_do_encoding_conversion_buf(proc, encoding, PG_UTF8,
											 (unsigned char *) text, len,
											 (unsigned char *) out.data + out.len,
											 room, true);
		out.len += strlen(out.data + out.len);
		text	  +=done;

		len -= done;
		if (len > 0)
		{
			int			skip = Min(pg_mblen(text), len);

			appendStringInfoString(&out, REPLACEMENT);
			text	  +=skip;

			len -= skip;
		}
	}
	return out.data;
}

/*
 * A copy as it is.
 */
static char *
copy_text(const char *text, int len)
{
	char	   *copy = palloc(len + 1);

	memcpy(copy, text, len);
	copy[len] = '\0';

	return copy;
}

/*
 * Text of this database as UTF-8, in a copy.  Runs in a transaction, since
 * conversions are looked up in a catalog.
 */
char *
oi_utf8_from_server(const char *text, int len)
{
	switch (GetDatabaseEncoding())
	{
		case PG_UTF8:
			return copy_text(text, len);
		case PG_SQL_ASCII:
			return utf8_from_unknown(text, len);
		default:
			return utf8_from_encoding(text, len);
	}
}
