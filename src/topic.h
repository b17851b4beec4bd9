/*-------------------------------------------------------------------------
 *
 * topic.h
 *		Where at a receiver an event goes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_TOPIC_H
#define OI_TOPIC_H

extern void oi_check_topic(const char *sink, const char *topic);
extern const char *oi_topic_expand(const char *topic, const char *type, const char *key);

#endif							/* OI_TOPIC_H */
