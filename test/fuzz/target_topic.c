/*
 * target_topic.c
 *		Topics, and what takes the place of their placeholders: whatever an application calls its
 *		types and keys, an event stays where the subscription's owner wants it.
 *
 * An input is a sink, a topic, a type, a key and another key.
 */
#include "server.h"

#include "topic.h"

#define ALLOWED "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/"

static int
count(const char *text, char c)
{
	int			n = 0;

	for (; *text != '\0'; text++)
		n += *text == c;
	return n;
}

/* Has a path a part that leads elsewhere? */
static bool
leads_elsewhere(const char *path)
{
	for (const char *part = path;;)
	{
		size_t		len = strcspn(part, "/");

		if ((len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
			return true;
		if (part[len] == '\0')
			return false;
		part += len + 1;
	}
}

static void
check_expansion(const char *sink, const char *topic, const char *type, const char *key)
{
	const char *expanded = oi_topic_expand(topic, type, key);
	size_t		literal = strcspn(topic, "{");

	FUZZ_CHECK(expanded[0] != '\0');
	FUZZ_CHECK(strspn(expanded, ALLOWED) == strlen(expanded));
	FUZZ_CHECK(strncmp(expanded, topic, literal) == 0);
	FUZZ_CHECK(count(expanded, '/') == count(topic, '/'));
	FUZZ_CHECK(!leads_elsewhere(expanded));
	if (strcmp(sink, "file") == 0)
		FUZZ_CHECK(expanded[0] != '.' && strchr(expanded, '/') == NULL);
	if (strcmp(sink, "nats") == 0)
		FUZZ_CHECK(expanded[0] != '.' && strstr(expanded, "..") == NULL && expanded[strlen(expanded) - 1] != '.');
	if (strcmp(sink, "kafka") == 0)
		FUZZ_CHECK(strncmp(expanded, "__", 2) != 0 || strncmp(topic, "__", 2) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *sink = fuzz_word(&data, &size);
	char	   *topic = fuzz_word(&data, &size);
	char	   *type = fuzz_word(&data, &size);
	char	   *key = fuzz_word(&data, &size);
	char	   *other = fuzz_word(&data, &size);

	/* neither is ever empty */
	if (type[0] != '\0' && key[0] != '\0' && other[0] != '\0' && FUZZ_TRY())
	{
		oi_check_topic(sink, topic);
		check_expansion(sink, topic, type, key);
		/* of two keys none gets where the other is */
		if (strstr(topic, "{key}") != NULL && strstr(topic, "{type}") == NULL && strcmp(key, other) != 0)
			FUZZ_CHECK(strcmp(oi_topic_expand(topic, type, key), oi_topic_expand(topic, type, other)) != 0);
	}
	fuzz_free_all();
	return 0;
}
