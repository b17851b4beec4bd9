/*-------------------------------------------------------------------------
 *
 * fingerprint.c
 *		Hashes of keys and requests.
 *
 * Both are SHA-256, from the server.  Nobody can find a key or a request with
 * the hash of somebody else's, whatever keys an application lets its clients
 * choose; src/README, "Claims", says what is left of that in 96 bits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/numeric.h"

#include "fingerprint.h"

/* Hashes one buffer. */
static void
sha256(const char *data, Size length, uint8 hash[OI_FINGERPRINT_LENGTH])
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL ||
		pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, length) < 0 ||
		pg_cryptohash_final(context, hash, OI_FINGERPRINT_LENGTH) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute SHA-256 hash: %s",
						pg_cryptohash_error(context))));
	pg_cryptohash_free(context);
}

/* Appends a length and that many bytes: no two sequences look the same. */
static void
append_counted(StringInfo buffer, const char *data, int length)
{
	uint32		count = pg_hton32((uint32) length);

	appendBinaryStringInfo(buffer, (const char *) &count, sizeof(count));
	appendBinaryStringInfo(buffer, data, length);
}

/* hexadecimal digits: their value, and IS_DIGIT */
#define IS_DIGIT 0x10
static const uint8 hex_digits[256] = {
	['0'] = 0x10,['1'] = 0x11,['2'] = 0x12,['3'] = 0x13,['4'] = 0x14,
	['5'] = 0x15,['6'] = 0x16,['7'] = 0x17,['8'] = 0x18,['9'] = 0x19,
	['a'] = 0x1a,['b'] = 0x1b,['c'] = 0x1c,['d'] = 0x1d,['e'] = 0x1e,
	['f'] = 0x1f,['A'] = 0x1a,['B'] = 0x1b,['C'] = 0x1c,['D'] = 0x1d,
	['E'] = 0x1e,['F'] = 0x1f
};

/*
 * Is this the canonical text of a UUIDv7?  Then *time is the upper part of its
 * time.
 *
 * That is 32 bits of 48, steps of 65 seconds.  A step's entries are random
 * among each other, and so is which of its pages the next one goes to.  As long
 * as a step is shorter than the time between two checkpoints, its pages are
 * filled within that time, and few of them are written whole into WAL.  Shorter
 * steps would bring nothing more, and take from the hash.
 */
static bool
uuid7_time(const char *key, int length, uint32 *time)
{
	static const uint8 groups[] = {0, 8, 9, 13, 14, 18, 19, 23, 24, 36};
	const uint8 *digits = (const uint8 *) key;
	uint8		all = IS_DIGIT;
	uint32		upper = 0;

	if (length != 36 || key[8] != '-' || key[13] != '-' || key[14] != '7' ||
		key[18] != '-' || (hex_digits[digits[19]] & 0xc) != 0x8 ||
		key[23] != '-')
		return false;
	for (int group = 0; group < (int) lengthof(groups); group += 2)
		for (int i = groups[group]; i < groups[group + 1]; i++)
			all &= hex_digits[digits[i]];
	for (int i = 0; i < 8; i++)
		upper = upper << 4 | (hex_digits[digits[i]] & 0xf);
	*time = upper;
	return all != 0;
}

/* The hash under which a claim is stored: 16 bytes over scope and key. */
void
oi_fingerprint_key(const text *scope, const text *key, OiKeyHash *hash)
{
	uint32		time;
	uint8		digest[OI_FINGERPRINT_LENGTH];
	StringInfoData buffer;

	initStringInfo(&buffer);
	append_counted(&buffer, VARDATA_ANY(scope), VARSIZE_ANY_EXHDR(scope));
	append_counted(&buffer, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	sha256(buffer.data, buffer.len, digest);
	pfree(buffer.data);

	memcpy(hash->plain.data, digest, UUID_LEN);
	hash->time_ordered = hash->plain;
	if (uuid7_time(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), &time))
	{
		time = pg_hton32(time);
		memcpy(hash->time_ordered.data, &time, sizeof(time));
		memcpy(hash->time_ordered.data + sizeof(time), digest,
			   UUID_LEN - sizeof(time));
	}
}

/* Appends a scalar with its type. */
static void
append_scalar(StringInfo buffer, const JsonbValue *value)
{
	char	   *number;

	switch (value->type)
	{
		case jbvNull:
			appendStringInfoChar(buffer, 'n');
			break;
		case jbvBool:
			appendStringInfoChar(buffer, value->val.boolean ? 't' : 'f');
			break;
		case jbvNumeric:
			/* without trailing zeroes: 1, 1.0 and 1e0 are one number */
			number = numeric_normalize(value->val.numeric);
			appendStringInfoChar(buffer, '#');
			append_counted(buffer, number, strlen(number));
			pfree(number);
			break;
		case jbvString:
			appendStringInfoChar(buffer, '"');
			append_counted(buffer, value->val.string.val,
						   value->val.string.len);
			break;
		default:
			elog(ERROR, "unexpected jsonb scalar type: %d", (int) value->type);
	}
}

/*
 * The fingerprint of a request.  Two values that jsonb calls equal have the
 * same: jsonb has its keys sorted and unique already.
 */
void
oi_fingerprint_request(Jsonb *request, uint8 hash[OI_FINGERPRINT_LENGTH])
{
	StringInfoData buffer;
	JsonbIterator *it = JsonbIteratorInit(&request->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	initStringInfo(&buffer);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				/* a scalar at the top is an array in disguise */
				appendStringInfoChar(&buffer, value.val.array.rawScalar ? 'S' : '[');
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoChar(&buffer, '{');
				break;
			case WJB_END_ARRAY:
				appendStringInfoChar(&buffer, ']');
				break;
			case WJB_END_OBJECT:
				appendStringInfoChar(&buffer, '}');
				break;
			default:
				append_scalar(&buffer, &value);
		}
	}
	sha256(buffer.data, buffer.len, hash);
	pfree(buffer.data);
}
