# A real Kafka broker, which is its own controller (KRaft), as a child of the test, and
# what tests ask an independent client, kcat, to read from it.
#
# scripts/setup-kafka puts it where OI_KAFKA says, or into build/kafka.

package OrderIdempotency::Kafka;

use strict;
use warnings;

use parent -norequire, 'OrderIdempotency::Broker';

use File::Path qw(make_path);
use FindBin;
use IPC::Run ();
use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Proxy;
use PostgreSQL::Test::Utils;
use Test::More;

my $home = $ENV{OI_KAFKA} // "$FindBin::RealBin/../../build/kafka";
my @administrators;

# Leaves the test out where there is no broker, no client, or no sink.
sub require_kafka
{
	my ($node) = @_;

	require_broker(
		[ 'Apache Kafka (see scripts/setup-kafka)', -e "$home/.built-from" ],
		[ 'kcat', -x '/usr/bin/kcat' ],
		[ 'the sink kafka', -e $node->config_data('--pkglibdir') . '/order_idempotency_kafka.so' ]);
	return;
}

# A program of Kafka's, as a command.  The heap is small: there is little to keep.
sub _java
{
	my ($heap, @command) = @_;

	return ('java', "-Xmx${heap}m", '-Xms32m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1',
		'-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-cp', "$home/classes:$home/lib/*", @command);
}

# A broker below a directory, started.  Options: conf, more lines for its
# configuration; sasl, a hash of users and passwords, for a listener of their own; proxy,
# true for one that can be got to through a proxy; tls, the files of a certificate, its key, and
# of an authority for those of clients, for listeners that say they are on localhost, one of them
# with users as well.
sub new
{
	my ($class, $dir, %opt) = @_;
	my $self = bless { name => 'kafka', dir => $dir, port => free_port(), sasl_port => free_port(),
		proxied => free_port(), controller => free_port(), sasl => $opt{sasl} // {} }, $class;
	my $file = "$dir/server.properties";

	make_path($dir);
	$self->{proxy} = OrderIdempotency::Proxy->new($self->{proxied}) if $opt{proxy};
	$self->{tls} = $opt{tls};
	$self->{$_} = free_port() foreach qw(tls_port sasl_tls_port);
	append_to_file($file, $self->_conf . ($opt{conf} // ''));
	$self->_start_administrator;	# it gets ready while the broker does
	system_or_bail(_java(128, 'kafka.tools.StorageTool', 'format', '-t', 'b3JkZXJfaWRlbXBvdA', '-c', $file));
	$self->{command} = [ _java(320, 'kafka.Kafka', $file) ];
	$self->{ready} = sub { $self->_ready };
	return $self->start;
}

# The configuration of a broker that is alone and that keeps little. One that was killed is not let
# in again before its session is over.
sub _conf
{
	my ($self) = @_;
	my $proxied = $self->{proxy} ? $self->{proxy}->port : $self->{proxied};
	my $users = join ' ', map { "user_$_=\"$self->{sasl}{$_}\"" } sort keys %{ $self->{sasl} };

	my ($listener, $advertised, $tls) = ('', '', '');

	if ($self->{tls})
	{
		my ($certificate, $key, $authority) = map { slurp_file($_) =~ s/\n/\\n/gr } @{ $self->{tls} };

		$listener = ",TLS://127.0.0.1:$self->{tls_port},SASLTLS://127.0.0.1:$self->{sasl_tls_port}";
		$advertised = ",TLS://localhost:$self->{tls_port},SASLTLS://localhost:$self->{sasl_tls_port}";
		$tls = join '', map { ("listener.name.tls.ssl.$_\n", "listener.name.sasltls.ssl.$_\n") } 'keystore.type=PEM',
		  "keystore.certificate.chain=$certificate", "keystore.key=$key";
		$tls .= join '', map { "listener.name.tls.ssl.$_\n" } 'client.auth=requested', 'truststore.type=PEM',
		  "truststore.certificates=$authority";
	}
	return <<"CONF";
$tls
process.roles=broker,controller
node.id=1
controller.quorum.voters=1\@127.0.0.1:$self->{controller}
listeners=PLAINTEXT://127.0.0.1:$self->{port},SASL://127.0.0.1:$self->{sasl_port},PROXIED://127.0.0.1:$self->{proxied}$listener,CONTROLLER://127.0.0.1:$self->{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:$self->{port},SASL://127.0.0.1:$self->{sasl_port},PROXIED://127.0.0.1:$proxied$advertised
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,PROXIED:PLAINTEXT,TLS:SSL,SASLTLS:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required $users;
listener.name.sasltls.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasltls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$self->{dir}/data
auto.create.topics.enable=false
num.partitions=4
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
CONF
}

# Does it answer?
sub _ready
{
	my ($self) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) or return 0;

	return system("timeout 5 kcat -b 127.0.0.1:$self->{port} -L -m 3 >$self->{dir}/ready 2>&1") == 0
	  && slurp_file("$self->{dir}/ready") =~ /^ 1 brokers:/m;
}

sub port { return $_[0]->{port} }
sub sasl_port { return $_[0]->{sasl_port} }
sub tls_port { return $_[0]->{tls_port} }
sub sasl_tls_port { return $_[0]->{sasl_tls_port} }
sub servers { return '127.0.0.1:' . $_[0]->{port} }

# Creates a topic.  Options: partitions; the rest are its configuration.
sub create_topic
{
	my ($self, $name, %opt) = @_;
	my $partitions = delete $opt{partitions} // 4;

	return $self->admin('topic', $name, $partitions, map { "$_=$opt{$_}" } sort keys %opt);
}

# Starts what carries out the commands of an administrator's (test/kafka/Admin.java).
sub _start_administrator
{
	my ($self) = @_;
	my $admin = $self->{admin} = { in => '', out => '' };

	$admin->{run} = IPC::Run::start([ _java(64, 'Admin', $self->servers) ],
		'<', \$admin->{in}, '>', \$admin->{out}, '2>', "$self->{dir}/admin.log");
	push @administrators, $admin->{run};
	return;
}

# Has an administrator do something, and returns the answer; Admin.java has the commands.
sub admin
{
	my ($self, @words) = @_;
	my $admin = $self->{admin};

	$admin->{in} .= join("\t", @words) . "\n";
	$admin->{run}->pump while $admin->{out} !~ s/^(\w+) (.*)\n//;
	die "@words: $2" if $1 ne 'ok';
	return $2;
}

# Lets a user do things: a list of operations, and with what: topic or transactional-id, and
# its name.
sub allow
{
	my ($self, $user, $operations, @resource) = @_;

	return $self->admin('allow', $user, @resource, @$operations);
}

# All records of a topic, each a hash (topic, partition, offset, key, payload, headers as a
# hash of lists), those of a partition in their order.  Option: level, the isolation level.
sub records
{
	my ($self, $topic, %opt) = @_;
	my $out = "$self->{dir}/records";

	$self->records_to_file($topic, $out, %opt);
	my $decoder = JSON::PP->new->utf8;
	my @records = map { $decoder->decode($_) } split /\n/, slurp_file($out);

	foreach my $record (@records)
	{
		my @pairs = @{ $record->{headers} // [] };
		my %headers;

		while (my ($name, $value) = splice @pairs, 0, 2)
		{
			push @{ $headers{$name} }, $value;
		}
		$record->{headers} = \%headers;
	}
	return @records;
}

# The same in a file, as kcat writes them.
sub records_to_file
{
	my ($self, $topic, $out, %opt) = @_;
	my $level = $opt{level} // 'read_committed';

	system("timeout 120 kcat -C -q -e -J -b 127.0.0.1:$self->{port} -t '$topic' -o beginning "
		  . "-X isolation.level=$level -X enable.partition.eof=true >$out 2>$out.err") == 0
	  or die "kcat: " . slurp_file("$out.err");
	return;
}

END
{
	my $status = $?;

	$_->kill_kill(grace => 0) foreach @administrators;
	$? = $status;
}

1;
