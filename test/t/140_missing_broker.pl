# No promise of the design's but one of the tests themselves: those of a broker's sink leave
# themselves out where the broker, its client or the sink is missing, and say which; where CI is
# set that is a failure. What a test looks for is hidden from it here.
#
# Bugs that this catches, planted and seen to fail: a test that passes by having tested nothing,
# in CI too; a reason that does not name what is missing.

use strict;
use warnings;

use File::Basename qw(basename);
use FindBin;
use IPC::Run qw(run);
use PostgreSQL::Test::Utils;
use Test::More;

# A directory for programs that has all of the machine's but one, and a library directory.
my $programs = PostgreSQL::Test::Utils::tempdir();
my $libraries = PostgreSQL::Test::Utils::tempdir();

foreach my $program (grep { -x && !-d } glob '/usr/bin/*')
{
	symlink $program, "$programs/" . basename($program);
}
append_to_file("$libraries/order_idempotency_$_.so", '') foreach qw(kafka nats rabbitmq redis);

# What a module has to hide something, and what asks for it.
my %asks = (
	redis => [ '', 'OrderIdempotency::Redis::require_redis($node)' ],
	kafka => [ '', 'OrderIdempotency::Kafka::require_kafka($node)' ],
	rabbitmq => [
		'*OrderIdempotency::RabbitMQ::_program = sub { "/nonexistent" };',
		'require_broker(OrderIdempotency::RabbitMQ->requirements)' ],
	nats => [
		'*OrderIdempotency::Nats::_program = sub { undef };',
		'require_broker(OrderIdempotency::Nats->requirements)' ]);
my %modules = (redis => 'Redis', kafka => 'Kafka', rabbitmq => 'RabbitMQ', nats => 'Nats');

# Runs the beginning of a test of a sink: what it printed, and its exit code.
sub begin_test
{
	my ($sink, %env) = @_;
	my ($hide, $ask) = @{ $asks{$sink} };
	my ($out, $err) = ('', '');
	local %ENV = (%ENV, CI => '', %env);

	run([ $^X, '-I', "$FindBin::RealBin/../lib", (map { ('-I', $_) } @INC), '-e', <<~"PERL" ], '<', \undef, '>', \$out, '2>', \$err);
		use Test::More;
		use OrderIdempotency::Broker;
		use OrderIdempotency::$modules{$sink};
		{ package Node; sub config_data { return '$libraries' } }
		my \$node = bless {}, 'Node';
		no warnings;
		$hide
		$ask;
		ok(1, 'it is there');
		done_testing();
		PERL
	return ($out, $? >> 8);
}

# Hides something from the tests of a sink, and looks what they do.
sub check_missing
{
	my ($sink, $what, %env) = @_;
	my ($out, $status) = begin_test($sink, %env);

	is($out, "1..0 # SKIP $what is missing\n", "$sink: the test says that $what is missing");
	is($status, 0, "$sink: and is left out");
	($out, $status) = begin_test($sink, %env, CI => 'true');
	like($out, qr/^not ok 1 - \Q$what is there, as CI is set\E\n1\.\.1\n\z/, "$sink: in CI that is a failure, which says so");
	isnt($status, 0, "$sink: and ends as one");
	return;
}

unlink "$programs/redis-server";
check_missing('redis', 'redis-server', PATH => $programs);
check_missing('kafka', 'Apache Kafka (see scripts/setup-kafka)', OI_KAFKA => '/nonexistent');
check_missing('rabbitmq', 'rabbitmq-server');
check_missing('nats', 'nats-server');
unlink "$libraries/order_idempotency_redis.so";
SKIP:
{
	skip 'redis-server is missing', 4 if system 'command -v redis-server redis-cli >/dev/null';
	check_missing('redis', 'the sink redis (libhiredis)');
}

done_testing();
