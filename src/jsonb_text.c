/*-------------------------------------------------------------------------
 *
 * jsonb_text.c
 *		The text of a jsonb value.
 *
 * The same as the server's jsonb_out() gives.  That was more than half of what an
 * event cost its worker: it copies each string before it escapes it, and appends
 * it character by character.  Here what needs no escape is appended at once.
 *
 * A number of 16 stored bytes, such as 1e131071, is 131,072 digits as text.  So a
 * small value may have a text that there is no memory for, and no text is made
 * beyond a bound.  Values are refused by it where they are passed to us, and an event
 * that has one all the same where it is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "jsonb_text.h"
#include "mb/pg_wchar.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/* how many times its stored size the text of a large value may have */
#define TEXT_GROWTH 4

/* bytes that no text may have, so that there is room to convert it */
#define TEXT_MOST ((Size) MaxAllocSize / MAX_CONVERSION_GROWTH - 1)

/* an order's event has more members than the one that is passed; they have fewer bytes */
#define OTHER_MEMBERS (64 * 1024)

/*
 * No stored byte makes as many of text: a number has 147,457 characters at most, and
 * takes 14 bytes at least.
 */
#define TEXT_PER_BYTE 16384

/*
 * Append bytes, mostly few of them.
 */
static inline void
append(StringInfo out, const char *bytes, int len)
{
	if (out->maxlen - out->len <= len)
		enlargeStringInfo(out, len);
	memcpy(out->data + out->len, bytes, len);
	out->len += len;
	out->data[out->len] = '\0';
}

/*
 * How many bytes from "at" on stand for themselves within quotes.
 */
static int
plain_run(const char *at, const char *end)
{
	const char *start = at;

	while (at < end && (unsigned char) *at >= ' ' && *at != '"' && *at != '\\')
		at++;
	return at - start;
}

/*
 * Append the escape of a character.
 */
static void
append_escape(StringInfo out, char c)
{
	static const char escaped[] = "\b\f\n\r\t\"\\";
	static const char letters[] = "bfnrt\"\\";
	const char *found = c == '\0' ? NULL : strchr(escaped, c);

	if (found == NULL)
		appendStringInfo(out, "\\u%04x", (unsigned char) c);
	else
	{
		appendStringInfoCharMacro(out, '\\');
		appendStringInfoCharMacro(out, letters[found - escaped]);
	}
}

/*
 * Append a string within quotes, or as much of it as makes the text longer than
 * "most".
 */
static void
append_string(StringInfo out, const char *string, int len, int most)
{
	const char *end = string + len;

	appendStringInfoCharMacro(out, '"');
	while (string < end && out->len <= most)
	{
		int			run = plain_run(string, end);

		append(out, string, run);
		string += run;
		if (string < end)
			append_escape(out, *string++);
	}
	appendStringInfoCharMacro(out, '"');
}

/*
 * Append a string within quotes.
 */
void
oi_json_append_string(StringInfo out, const char *string, int len)
{
	append_string(out, string, len, PG_INT32_MAX);
}

/*
 * Append a value that is neither array nor object.
 */
static void
append_scalar(StringInfo out, const JsonbValue *value, int most)
{
	char	   *text;

	switch (value->type)
	{
		case jbvNull:
			append(out, "null", 4);
			break;
		case jbvBool:
			appendStringInfoString(out, value->val.boolean ? "true" : "false");
			break;
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));

			appendStringInfoString(out, text);
			pfree(text);
			break;
		case jbvString:
			append_string(out, value->val.string.val, value->val.string.len, most);
			break;
		default:
			elog(ERROR, "unknown jsonb scalar type %d", (int) value->type);
	}
}

/*
 * Append a token of the value.  Returns whether a comma belongs before the next one.
 */
static bool
append_token(StringInfo out, JsonbIteratorToken token, const JsonbValue *value, bool comma,
			 int most)
{
	if (comma && token != WJB_END_ARRAY && token != WJB_END_OBJECT)
		append(out, ", ", 2);
	switch (token)
	{
		case WJB_BEGIN_ARRAY:
			appendStringInfoCharMacro(out, '[');
			return false;
		case WJB_BEGIN_OBJECT:
			appendStringInfoCharMacro(out, '{');
			return false;
		case WJB_KEY:
			append_string(out, value->val.string.val, value->val.string.len, most);
			append(out, ": ", 2);
			return false;
		case WJB_END_ARRAY:
			appendStringInfoCharMacro(out, ']');
			return true;
		case WJB_END_OBJECT:
			appendStringInfoCharMacro(out, '}');
			return true;
		default:
			append_scalar(out, value, most);
			return true;
	}
}

/*
 * Append the text of a jsonb value.  A scalar is stored as an array that says so.
 * False: "out" became longer than "most", and does not have all of it.
 */
bool
oi_jsonb_append(StringInfo out, Jsonb *jsonb, int most)
{
	bool		scalar = JB_ROOT_IS_SCALAR(jsonb);
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		comma = false;

	while (out->len <= most && (token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
		if (!scalar || token == WJB_ELEM)
			comma = append_token(out, token, &value, comma, most);
	return out->len <= most;
}

/*
 * How many bytes the text of a value may have.  That depends on nothing but the
 * value: what was accepted once can be delivered later.
 */
int
oi_jsonb_text_most(const Jsonb *jsonb)
{
	Size		most = Max(OI_JSONB_TEXT, TEXT_GROWTH * (Size) VARSIZE(jsonb));

	return (int) Min(most, TEXT_MOST);
}

/*
 * Has a value no more than that, so that an event can have it?  The text is made to
 * find out, of values that are not too small for a long one.
 */
bool
oi_jsonb_text_fits(Jsonb *jsonb)
{
	StringInfoData text;
	bool		fits;

	if (VARSIZE(jsonb) < OI_JSONB_TEXT / TEXT_PER_BYTE)
		return true;
	initStringInfo(&text);
	fits = oi_jsonb_append(&text, jsonb, oi_jsonb_text_most(jsonb) - OTHER_MEMBERS);
	pfree(text.data);
	return fits;
}
