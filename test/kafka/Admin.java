/*
 * What tests have an administrator of Kafka do: java Admin SERVERS.  To start one of Kafka's own
 * programs for each would take a virtual machine each time, which is most of the time that a test has.
 *
 * Commands are lines of words with tabs between, each answered by a line "ok" or "error" and a text:
 *
 *	topic NAME PARTITIONS [PROPERTY=VALUE ...]		create it
 *	describe NAME			how many partitions it has, and its cleanup.policy
 *	set NAME PROPERTY=VALUE ...					of a topic
 *	allow USER topic|transactional-id NAME OPERATION ...
 *	user NAME PASSWORD		for SCRAM-SHA-512
 *	group NAME TOPIC		how many members a group of consumers has, and how many records of the
 *							topic are left for it
 */
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.ExecutionException;

import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

public class Admin {
	private final AdminClient client;

	private Admin(String servers) {
		client = AdminClient.create(Map.of("bootstrap.servers", servers,
			"default.api.timeout.ms", "60000", "reconnect.backoff.max.ms", "200"));
	}

	public static void main(String[] arguments) throws IOException {
		Admin admin = new Admin(arguments[0]);
		BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

		for (String line = in.readLine(); line != null; line = in.readLine()) {
			String answer;

			try {
				answer = "ok " + admin.obey(line.split("\t"));
			} catch (ExecutionException e) {
				answer = "error " + e.getCause();
			} catch (InterruptedException | RuntimeException e) {
				answer = "error " + e;
			}
			System.out.println(answer.replace('\n', ' '));
		}
		System.exit(0);
	}

	private String obey(String[] words) throws ExecutionException, InterruptedException {
		List<String> rest = Arrays.asList(words).subList(2, words.length);

		switch (words[0]) {
			case "topic":
				NewTopic topic = new NewTopic(words[1], Optional.of(Integer.parseInt(words[2])), Optional.empty());
				client.createTopics(List.of(topic.configs(pairs(rest.subList(1, rest.size()))))).all().get();
				return "";
			case "describe":
				return describe(words[1]);
			case "set":
				set(words[1], pairs(rest));
				return "";
			case "allow":
				allow(words[1], ResourceType.fromString(words[2].replace('-', '_')), words[3], rest.subList(2, rest.size()));
				return "";
			case "user":
				client.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(words[1],
					new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), words[2]))).all().get();
				return "";
			case "group":
				return group(words[1], words[2]);
			default:
				throw new IllegalArgumentException(words[0]);
		}
	}

	private static Map<String, String> pairs(List<String> words) {
		Map<String, String> pairs = new HashMap<>();

		for (String word : words) {
			String[] pair = word.split("=", 2);

			pairs.put(pair[0], pair[1]);
		}
		return pairs;
	}

	private String describe(String name) throws ExecutionException, InterruptedException {
		ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, name);
		int partitions = client.describeTopics(List.of(name)).allTopicNames().get().get(name).partitions().size();

		return partitions + " " + client.describeConfigs(List.of(resource)).all().get().get(resource)
			.get("cleanup.policy").value();
	}

	private String group(String name, String topic) throws ExecutionException, InterruptedException {
		int members = client.describeConsumerGroups(List.of(name)).all().get().get(name).members().size();
		Map<TopicPartition, OffsetAndMetadata> committed =
			client.listConsumerGroupOffsets(name).partitionsToOffsetAndMetadata().get();
		Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
		long left = 0;

		for (TopicPartitionInfo partition : client.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions()) {
			ends.put(new TopicPartition(topic, partition.partition()), OffsetSpec.latest());
		}
		for (Map.Entry<TopicPartition, ListOffsetsResultInfo> end : client.listOffsets(ends).all().get().entrySet()) {
			OffsetAndMetadata offset = committed.get(end.getKey());

			left += end.getValue().offset() - (offset == null ? 0 : offset.offset());
		}
		return members + " " + left;
	}

	private void set(String name, Map<String, String> pairs) throws ExecutionException, InterruptedException {
		List<AlterConfigOp> changes = new ArrayList<>();

		pairs.forEach((property, value) ->
			changes.add(new AlterConfigOp(new ConfigEntry(property, value), AlterConfigOp.OpType.SET)));
		client.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.TOPIC, name), changes)).all().get();
	}

	private void allow(String user, ResourceType type, String name, List<String> operations)
			throws ExecutionException, InterruptedException {
		List<AclBinding> bindings = new ArrayList<>();

		for (String operation : operations) {
			bindings.add(new AclBinding(new ResourcePattern(type, name, PatternType.LITERAL),
				new AccessControlEntry("User:" + user, "*",
					AclOperation.fromString(operation.toUpperCase(Locale.ROOT)), AclPermissionType.ALLOW)));
		}
		client.createAcls(bindings).all().get();
	}
}
