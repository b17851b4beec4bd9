/*-------------------------------------------------------------------------
 *
 * jsonb_text.c
 *		The text of a jsonb value.
 *
 * The same as the server's jsonb_out() gives.  That was more than half of what an
 * event cost its worker: it copies each string before it escapes it, and appends
 * it character by character.  Here what needs no escape is appended at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "jsonb_text.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

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
 * Append a string within quotes.
 */
void
oi_json_append_string(StringInfo out, const char *string, int len)
{
	const char *end = string + len;

	appendStringInfoCharMacro(out, '"');
	while (string < end)
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
 * Append a value that is neither array nor object.
 */
static void
append_scalar(StringInfo out, const JsonbValue *value)
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
			oi_json_append_string(out, value->val.string.val, value->val.string.len);
			break;
		default:
			elog(ERROR, "unknown jsonb scalar type %d", (int) value->type);
	}
}

/*
 * Append a token of the value.  Returns whether a comma belongs before the next one.
 */
static bool
append_token(StringInfo out, JsonbIteratorToken token, const JsonbValue *value, bool comma)
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
			oi_json_append_string(out, value->val.string.val, value->val.string.len);
			append(out, ": ", 2);
			return false;
		case WJB_END_ARRAY:
			appendStringInfoCharMacro(out, ']');
			return true;
		case WJB_END_OBJECT:
			appendStringInfoCharMacro(out, '}');
			return true;
		default:
			append_scalar(out, value);
			return true;
	}
}

/*
 * Append the text of a jsonb value.  A scalar is stored as an array that says so.
 */
void
oi_jsonb_append(StringInfo out, Jsonb *jsonb)
{
	bool		scalar = JB_ROOT_IS_SCALAR(jsonb);
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		comma = false;

	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
		if (!scalar || token == WJB_ELEM)
			comma = append_token(out, token, &value, comma);
}
