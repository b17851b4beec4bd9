/*-------------------------------------------------------------------------
 *
 * sink_outcome.c
 *		Taking over what a sink says of its events.
 *
 * Nothing of it is believed that could do harm.  A sink works on copies of the
 * events, so all it can change of them is the outcome.  An outcome that is none
 * means to send the event again.  So does any outcome of an event behind one
 * of the same key that was not delivered: it counts as not tried, since the
 * order of a key's events is ours to keep.  Reasons come from who knows where; they are made one line
 * of valid text, no longer than is of use, without the secrets of the
 * user mapping.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "sink_outcome.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* how much of a text is looked at */
#define TEXT_MOST 65536

/* shorter values of a user mapping's options are not taken for secrets */
#define SECRET_LEAST 4
#define SECRET_SHOWN "***"

/*
 * Put asterisks in the place of a secret, wherever it is in the text.
 */
static void
hide_secret(StringInfo text, const char *secret)
{
	size_t		len = strlen(secret);
	char	   *from = text->data;
	char	   *found;

	if (len < SECRET_LEAST)
		return;
	while ((found = strstr(from, secret)) != NULL)
	{
		memcpy(found, SECRET_SHOWN, strlen(SECRET_SHOWN));
		from = found + strlen(SECRET_SHOWN);
		memmove(from, found + len, strlen(found + len) + 1);
	}
	text	  ->len = strlen(text->data);
}

/*
 * Is a character, of so many bytes, one that a terminal may act on?
 */
static bool
is_control(const unsigned char *at, int bytes)
{
	if (bytes == 2 && GetDatabaseEncoding() == PG_UTF8)
		return at[0] == 0xc2 && at[1] < 0xa0;
	return bytes == 1 && (at[0] < ' ' || at[0] == 0x7f);
}

/*
 * Append text up to a number of bytes: whole and valid characters, each run of
 * control characters as one blank.
 */
static void
append_clean(StringInfo out, const char *text, int len)
{
	int			encoding = GetDatabaseEncoding();

	for (int at = 0; at < len;)
	{
		int			bytes = pg_encoding_verifymbchar(encoding, text +at, len - at);

		if (out->len + Max(bytes, 1) > OI_REASON_LEN)
		{
			appendStringInfoString(out, "...");
			break;
		}
		if (bytes <= 0)
			appendStringInfoChar(out, '?');
		else if (!is_control((const unsigned char *) &text[at], bytes))
			appendBinaryStringInfo(out, text +at, bytes);
		else if (out->len > 0 && out->data[out->len - 1] != ' ')
			appendStringInfoChar(out, ' ');
		at += Max(bytes, 1);
	}
}

/*
 * What a sink said, fit for the log and for a view, in the current context.
 */
char *
oi_outcome_text(const OiSinkState *state, const char *text)
{
	StringInfoData raw;
	StringInfoData clean;
	ListCell   *lc;

	initStringInfo(&raw);
	appendBinaryStringInfo(&raw, text, strnlen(text, TEXT_MOST));
	foreach(lc, state->user_options)
		hide_secret(&raw, defGetString(lfirst_node(DefElem, lc)));

	initStringInfo(&clean);
	append_clean(&clean, raw.data, raw.len);
	pfree(raw.data);

	return clean.data;
}

/*
 * The outcome of one event by itself.
 */
static void
take_answer(const OiSinkState *state, OiSinkEvent *event, const OiSinkEvent *answer)
{
	event->outcome = answer->outcome;
	event->reason = NULL;
	event->retry_after = 0;
	if (event->outcome == OI_SINK_DELIVERED)
		return;

	if (event->outcome != OI_SINK_RETRY && event->outcome != OI_SINK_REJECTED)
	{
		event->outcome = OI_SINK_RETRY;
		event->reason = psprintf("sink gave the unknown outcome %d", (int) answer->outcome);
		return;
	}
	if (answer->reason != NULL)
		event->reason = oi_outcome_text(state, answer->reason);
	else if (event->outcome == OI_SINK_REJECTED)
		event->reason = "sink gave no reason";
	if (event->outcome == OI_SINK_RETRY)
		event->retry_after = Max(0, Min(answer->retry_after, OI_RETRY_AFTER_MOST));
}

/*
 * Have the events behind one that was not delivered, of the same key, be sent
 * again, as events that were not tried.  Keys are told apart by a hash: two that share it only wait for
 * each other.
 */
static void
hold_back(OiSinkEvent *events, int first, int n)
{
	HASHCTL		ctl = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64)};
	HTAB	   *failed;

	ctl.hcxt = CurrentMemoryContext;
	failed = hash_create("order_idempotency failed keys", 64, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = first; i < n; i++)
	{
		uint64		hash = hash_bytes_extended((const unsigned char *) events[i].key,
											   strlen(events[i].key), 0);
		bool		held;

		(void) hash_search(failed, &hash,
						   events[i].outcome == OI_SINK_DELIVERED ? HASH_FIND : HASH_ENTER, &held);
		if (!held)
			continue;
		events[i].outcome = OI_SINK_RETRY;
		events[i].reason = NULL;
		events[i].retry_after = 0;
	}
	hash_destroy(failed);
}

/*
 * Take the outcomes of n events from the copies that the sink had.  Reasons are
 * in the current context.
 */
void
oi_outcome_take(const OiSinkState *state, OiSinkEvent *events,
				const OiSinkEvent *answers, int n)
{
	int			first = n;

	for (int i = n - 1; i >= 0; i--)
	{
		take_answer(state, &events[i], &answers[i]);
		if (events[i].outcome != OI_SINK_DELIVERED)
			first = i;
	}
	if (first < n)
		hold_back(events, first, n);
}
