/*-------------------------------------------------------------------------
 *
 * json_object.h
 *		JSON objects whose members are known beforehand.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_JSON_OBJECT_H
#define OI_JSON_OBJECT_H

#include "utils/jsonb.h"

/* a member; the value is a scalar or jbvBinary */
typedef struct OiJsonMember
{
	const char *name;
	JsonbValue	value;
} OiJsonMember;

extern Jsonb *oi_json_object(const OiJsonMember *members, int n);

#endif							/* OI_JSON_OBJECT_H */
