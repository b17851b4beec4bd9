/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Where at a receiver an event goes.
 *
 * A subscription's topic is text of few characters, in which {type} and {key}
 * stand for those of the event.  Types and keys are chosen by application roles,
 * who must not be able to choose a place with them: another level of a
 * hierarchy, a wildcard, a parent directory, a receiver's internal topic.  So of
 * what takes the place of a placeholder, every byte but letters, digits, "_", "-"
 * and, between others in a type, "." becomes "_x" and two hexadecimal digits.
 * These are characters that mean nothing to any receiver, and that nobody
 * between here and there decodes, as it may happen to "%2F".  "_" before "x" is
 * written in the same way, so no two types have one expansion, and no two keys.
 *
 * What a name begins with can mean something too ("__consumer_offsets", "$JS",
 * "_INBOX"), so a placeholder comes behind a word of the subscription's owner,
 * except where that stands elsewhere: in a URL, or as the name of an exchange.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "topic.h"

#define LETTERS_AND_DIGITS \
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define SEPARATORS "._-/"

/* what stands for parts of the event */
#define TYPE_MARK "{type}"
#define KEY_MARK "{key}"

/* the longest topic of a subscription, in bytes: that of a file name */
#define MAX_TOPIC 255

/* what a topic of a sink may be, beside what holds for all */
typedef struct TopicRule
{
	const char *sink;
	bool		no_marks;		/* all events go to one place */
	bool		bare_marks;		/* a placeholder may be the first */
	bool		no_slash;
	bool		words;			/* between dots, none of them empty */
	const char *detail;
} TopicRule;

static const TopicRule rules[] = {
	{
		.sink = "file",.no_marks = true,.no_slash = true,
		.detail = "For a file it is a file name, without \"/\" and not beginning with \".\"."
	},
	{
		.sink = "http",.bare_marks = true,
		.detail = "For a URL it is a path."
	},
	{
		.sink = "kafka",.no_slash = true,
		.detail = "For Kafka it is a topic, without \"/\", and has a word before the first placeholder."
	},
	{
		.sink = "nats",.words = true,
		.detail = "For NATS it is a subject, of words between dots, the first of which is no placeholder."
	},
	{
		.sink = "rabbitmq",.bare_marks = true,
		.detail = "For RabbitMQ it is a routing key."
	},
	{
		/* all others */
		.sink = NULL,.detail = "It has to have a word before the first placeholder."
	}
};

/*
 * The rule for a sink.
 */
static const TopicRule *
rule_of(const char *sink)
{
	const TopicRule *rule = rules;

	while (rule->sink != NULL && strcmp(rule->sink, sink) != 0)
		rule++;
	return rule;
}

/*
 * Raise the error of a topic that is none.
 */
static void
report_topic(const char *topic, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid topic \"%s\"", topic),
			 detail ? errdetail("%s", detail) : 0,
			 errhint("Use letters, digits, \".\", \"_\", \"-\" and \"/\", and %s and %s for those of the event.",
					 TYPE_MARK, KEY_MARK)));
}

/*
 * How long the placeholder is that text begins with; 0: none.
 */
static size_t
mark_length(const char *text)
{
	if (strncmp(text, TYPE_MARK, strlen(TYPE_MARK)) == 0)
		return strlen(TYPE_MARK);
	if (strncmp(text, KEY_MARK, strlen(KEY_MARK)) == 0)
		return strlen(KEY_MARK);
	return 0;
}

/*
 * A copy in which each placeholder is the character "x", which is what its
 * expansion looks like to who reads the topic; the first one is at *first, or
 * that is -1.  Two of them need something between them, to be told apart.
 */
static char *
without_marks(const char *topic, int *first)
{
	char	   *plain = palloc(strlen(topic) + 1);
	char	   *out = plain;
	size_t		len;

	*first = -1;
	for (const char *at = topic; *at != '\0'; at += len)
	{
		len = mark_length(at);
		if (len > 0 && *first < 0)
			*first = out - plain;
		if (len > 0 && mark_length(at + len) > 0)
			report_topic(topic, "Between two placeholders there has to be another character.");
		*out++ = len > 0 ? 'x' : *at;
		len = Max(len, 1);
	}
	*out = '\0';

	return plain;
}

/*
 * Has it a part between separators that is empty, or, for slashes, leads
 * upwards?
 */
static bool
has_bad_part(const char *plain, char separator)
{
	const char *part = plain;

	while (true)
	{
		const char *end = strchr(part, separator);
		size_t		len = end ? (size_t) (end - part) : strlen(part);

		if (separator == '/' ? (len == 1 && part[0] == '.') ||
			(len == 2 && strncmp(part, "..", 2) == 0) : len == 0)
			return true;
		if (end == NULL)
			return false;
		part = end + 1;
	}
}

/*
 * Is a topic what a sink can use?
 */
void
oi_check_topic(const char *sink, const char *topic)
{
	const TopicRule *rule = rule_of(sink);
	int			first;
	char	   *plain;

	if (strlen(topic) > MAX_TOPIC)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("topic is too long"),
				 errdetail("It may have up to %d bytes.", MAX_TOPIC)));
	plain = without_marks(topic, &first);
	if (plain[0] == '\0' || strspn(plain, LETTERS_AND_DIGITS SEPARATORS) != strlen(plain))
		report_topic(topic, NULL);
	if (has_bad_part(plain, '/'))
		report_topic(topic, "It must not have \".\" or \"..\" between slashes.");
	if ((rule->no_marks && (first >= 0 || plain[0] == '.')) ||
		(rule->no_slash && strchr(plain, '/') != NULL) ||
		(rule->words && has_bad_part(plain, '.')) ||
		(!rule->bare_marks && first >= 0 &&
		 (strspn(plain, SEPARATORS) > 0 || first < 2 || strchr(SEPARATORS, plain[first - 1]) == NULL)))
		report_topic(topic, rule->detail);
	pfree(plain);
}

/*
 * Append what takes the place of a placeholder; dots: keep those that stand
 * singly between others.
 */
static void
append_escaped(StringInfo out, const char *value, bool dots)
{
	for (const char *at = value; *at != '\0'; at++)
	{
		bool		kept;

		if (*at == '.')
			kept = dots && at != value && at[-1] != '.' && at[1] != '\0';
		else if (*at == '_')
			kept = at[1] != 'x';
		else
			kept = strchr(LETTERS_AND_DIGITS "-", *at) != NULL;
		if (kept)
			appendStringInfoChar(out, *at);
		else
			appendStringInfo(out, "_x%02X", (unsigned char) *at);
	}
}

/*
 * The topic of an event, in the current context; the subscription's own where
 * it is the same for all.  Type and key are in UTF-8.
 */
const char *
oi_topic_expand(const char *topic, const char *type, const char *key)
{
	StringInfoData out;

	if (strchr(topic, '{') == NULL)
		return topic;

	initStringInfo(&out);
	while (*topic != '\0')
	{
		size_t		len = mark_length(topic);

		if (len == strlen(TYPE_MARK))
			append_escaped(&out, type, true);
		else if (len == strlen(KEY_MARK))
			append_escaped(&out, key, false);
		else
			appendStringInfoChar(&out, *topic);
		topic += Max(len, 1);
	}

	return out.data;
}
