/*-------------------------------------------------------------------------
 *
 * json_object.c
 *		JSON objects whose members are known beforehand.
 *
 * The server's pushJsonbValue() takes each nested value apart, to its last
 * scalar, sorts what it is given, and puts all together again.  For an event
 * that is most of the work, and all of the order's payload twice.  Here members
 * come in jsonb's order already, and a nested value is taken over as it is: a
 * container is the same bytes at the top of a value and inside of another.
 *
 * The form is that of utils/jsonb.h: a count, an entry for each name and then
 * each value, the names, the values.  An entry says type and length, but every
 * JB_OFFSET_STRIDEth where it ends.  Numbers and containers are aligned, and
 * their entries include the padding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "json_object.h"

/* a container in the making */
typedef struct Writer
{
	JEntry	   *entries;
	char	   *data;
	int			count;			/* of entries so far */
	uint32		length;			/* of the data so far */
} Writer;

/* The most that a value can take. */
static Size
room_for(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return value->val.string.len;
		case jbvNumeric:
			return sizeof(int) + VARSIZE_ANY(value->val.numeric);
		case jbvBinary:
			return sizeof(int) + value->val.binary.len;
		default:
			return 0;
	}
}

/* Appends an entry and its data. */
static void
put(Writer *writer, JEntry type, const void *data, Size length, bool aligned)
{
	uint32		start = aligned ? INTALIGN(writer->length) : writer->length;
	uint32		end = start + length;
	JEntry		entry;

	memset(writer->data + writer->length, 0, start - writer->length);
	memcpy(writer->data + start, data, length);
	if (writer->count % JB_OFFSET_STRIDE == 0)
		entry = type | JENTRY_HAS_OFF | end;
	else
		entry = type | (end - writer->length);
	writer->entries[writer->count++] = entry;
	writer->length = end;
}

/* Appends a value. */
static void
put_value(Writer *writer, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			put(writer, JENTRY_ISNULL, "", 0, false);
			break;
		case jbvBool:
			put(writer, value->val.boolean ?
				JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE, "", 0, false);
			break;
		case jbvString:
			put(writer, JENTRY_ISSTRING, value->val.string.val,
				value->val.string.len, false);
			break;
		case jbvNumeric:
			put(writer, JENTRY_ISNUMERIC, value->val.numeric,
				VARSIZE_ANY(value->val.numeric), true);
			break;
		case jbvBinary:
			put(writer, JENTRY_ISCONTAINER, value->val.binary.data,
				value->val.binary.len, true);
			break;
		default:
			elog(ERROR, "unexpected type of a JSON value: %d", (int) value->type);
	}
}

/* Does one name come before another, as jsonb sorts them? */
static bool PG_USED_FOR_ASSERTS_ONLY
in_order(const char *a, const char *b)
{
	Size		length_a = strlen(a);
	Size		length_b = strlen(b);

	return length_a != length_b ? length_a < length_b :
		memcmp(a, b, length_a) < 0;
}

/*
 * An object of these members.  Their names are in jsonb's order: the shorter
 * first, and those of one length by their bytes.
 */
Jsonb *
oi_json_object(const OiJsonMember *members, int n)
{
	Size		head = offsetof(Jsonb, root.children) + 2 * n * sizeof(JEntry);
	Size		size = 0;
	Jsonb	   *object;
	Writer		writer = {0};

	for (int i = 0; i < n; i++)
	{
		Assert(i == 0 || in_order(members[i - 1].name, members[i].name));
		size += strlen(members[i].name) + room_for(&members[i].value);
	}
	if (size > JENTRY_OFFLENMASK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("JSON object is too large"),
				 errdetail("Its members have up to %zu bytes, and at most %d are allowed.",
						   size, JENTRY_OFFLENMASK)));

	object = palloc(head + size);
	object->root.header = n | JB_FOBJECT;
	writer.entries = object->root.children;
	writer.data = (char *) object + head;
	for (int i = 0; i < n; i++)
		put(&writer, JENTRY_ISSTRING, members[i].name,
			strlen(members[i].name), false);
	for (int i = 0; i < n; i++)
		put_value(&writer, &members[i].value);
	SET_VARSIZE(object, head + writer.length);
	return object;
}
