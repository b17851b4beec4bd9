/*
 * server.c
 *		The functions of the server that the parts under test call.
 */
#include "server.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/value.h"
#include "utils/memutils.h"
#include "utils/palloc.h"

sigjmp_buf	fuzz_error;
char		fuzz_message[1024];

MemoryContext CurrentMemoryContext = NULL;

/* what was allocated for this input */
typedef struct Chunk
{
	struct Chunk *next;
	struct Chunk **prev;
	Size		size;
} Chunk;

static Chunk *chunks = NULL;
static int	raised_level;

#define HEADER MAXALIGN(sizeof(Chunk))

static void *
link_chunk(Chunk *chunk, Size size)
{
	chunk->size = size;
	chunk->next = chunks;
	chunk->prev = &chunks;
	if (chunks != NULL)
		chunks->prev = &chunk->next;
	chunks = chunk;
	return (char *) chunk + HEADER;
}

static void
unlink_chunk(Chunk *chunk)
{
	*chunk->prev = chunk->next;
	if (chunk->next != NULL)
		chunk->next->prev = chunk->prev;
}

void *
palloc(Size size)
{
	return link_chunk(malloc(HEADER + size), size);
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

void *
MemoryContextAllocZeroAligned(MemoryContext context, Size size)
{
	return palloc0(size);
}

void
pfree(void *pointer)
{
	Chunk	   *chunk = (Chunk *) ((char *) pointer - HEADER);

	unlink_chunk(chunk);
	free(chunk);
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *chunk = (Chunk *) ((char *) pointer - HEADER);

	unlink_chunk(chunk);
	return link_chunk(realloc(chunk, HEADER + size), size);
}

char *
pstrdup(const char *text)
{
	return strcpy(palloc(strlen(text) + 1), text);
}

void
fuzz_free_all(void)
{
	while (chunks != NULL)
		pfree((char *) chunks + HEADER);
}

/* The next word of an input: up to a zero byte, or the rest. */
char *
fuzz_word(const uint8_t **data, size_t *size)
{
	size_t		len = 0;
	char	   *word;

	while (len < *size && (*data)[len] != '\0')
		len++;
	word = palloc(len + 1);
	memcpy(word, *data, len);
	word[len] = '\0';
	*data += Min(len + 1, *size);
	*size -= Min(len + 1, *size);
	return word;
}

/* -- reports ---------------------------------------------------------------- */

bool
errstart(int elevel, const char *domain)
{
	raised_level = elevel;
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *file, int line, const char *function)
{
	if (raised_level >= ERROR)
		siglongjmp(fuzz_error, 1);
}

int
errcode(int code)
{
	return 0;
}

static int
note(const char *format, va_list args)
{
	vsnprintf(fuzz_message, sizeof(fuzz_message), format, args);
	return 0;
}

int
errmsg(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	note(format, args);
	va_end(args);
	return 0;
}

/* what follows is formatted, too, and thrown away */
#define TEXT_OF_REPORT(name) \
int \
name(const char *format,...) \
{ \
	char		text[1024]; \
	va_list		args; \
\
	va_start(args, format); \
	vsnprintf(text, sizeof(text), format, args); \
	va_end(args); \
	return 0; \
}

TEXT_OF_REPORT(errmsg_internal)
TEXT_OF_REPORT(errdetail)
TEXT_OF_REPORT(errhint)

#if PG_VERSION_NUM >= 160000
void
ExceptionalCondition(const char *condition, const char *file, int line)
#else
void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
#endif
{
	fprintf(stderr, "%s:%d: %s\n", file, line, condition);
	abort();
}

/* -- texts ------------------------------------------------------------------- */

void
initStringInfo(StringInfo str)
{
	str->maxlen = 16;
	str->data = palloc(str->maxlen);
	resetStringInfo(str);
}

void
resetStringInfo(StringInfo str)
{
	str->data[0] = '\0';
	str->len = 0;
	str->cursor = 0;
}

void
enlargeStringInfo(StringInfo str, int needed)
{
	while (str->maxlen - str->len <= needed)
		str->data = repalloc(str->data, str->maxlen *= 2);
}

#if PG_VERSION_NUM >= 160000
void
appendBinaryStringInfo(StringInfo str, const void *data, int len)
#else
void
appendBinaryStringInfo(StringInfo str, const char *data, int len)
#endif
{
	enlargeStringInfo(str, len);
	memcpy(str->data + str->len, data, len);
	str->len += len;
	str->data[str->len] = '\0';
}

void
appendStringInfoString(StringInfo str, const char *text)
{
	appendBinaryStringInfo(str, text, strlen(text));
}

void
appendStringInfoChar(StringInfo str, char c)
{
	appendBinaryStringInfo(str, &c, 1);
}

char *
psprintf(const char *format,...)
{
	va_list		args;
	int			len;
	char	   *text;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	text = palloc(len + 1);
	va_start(args, format);
	vsnprintf(text, len + 1, format, args);
	va_end(args);
	return text;
}

void
appendStringInfo(StringInfo str, const char *format,...)
{
	va_list		args;
	int			len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	enlargeStringInfo(str, len);
	va_start(args, format);
	vsnprintf(str->data + str->len, len + 1, format, args);
	va_end(args);
	str->len += len;
}

int
pg_lltoa(int64 value, char *text)
{
	return sprintf(text, "%lld", (long long) value);
}
