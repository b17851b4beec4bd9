# Promises 1 (one winner), 2 (all or nothing), 4 (no event lost) and 6 (order per key), the whole way
# with RabbitMQ: what 160_pipeline_kafka.pl does, with quorum queues of commands, messages acknowledged
# when the database has committed, and the sink rabbitmq.  That one delivers at least once, so the reader
# drops what comes again under the same message_id (promise 7).
#
# Bugs that this catches, each planted and seen to fail: messages acknowledged before the database
# commits; no claim of the message's id (parcels are sent twice, and the stock is short).
#
# All queues are there before anything is killed: see RabbitMQ.pm's declare.
#
# The full run: make test KIND=tap TESTS=161_pipeline_rabbitmq OI_PIPELINE=full FILE_TIMEOUT=3600

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use JSON::PP;
use OrderIdempotency::Broker;
use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Pipeline;
use OrderIdempotency::RabbitMQ;
use OrderIdempotency::Receiver;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('pipeline_rabbitmq', conf => "max_worker_processes = 24\n");
require_broker([ 'sink rabbitmq (librabbitmq-dev)', sink_there($node, 'rabbitmq') ],
	OrderIdempotency::RabbitMQ->requirements, OrderIdempotency::Pipeline::requirements());

my $rabbit = OrderIdempotency::RabbitMQ->new($node->basedir . '/broker');
$rabbit->start;
my %quorum = ('x-queue-type' => 'quorum');
$rabbit->declare(queues => [ (map { [ $_, {%quorum} ] } 'events', 'commands.rejected'),
		map { [ "commands.$_", { %quorum, 'x-single-active-consumer' => JSON::PP::true } ] } 0 .. 3 ]);

# Is nothing left in the queues of commands, acknowledgements included?
sub no_messages
{
	my @left = $rabbit->ctl('list_queues', 'name', 'messages') =~ /^commands\.\d+\t(\d+)/mg;

	return @left == 4 && !grep { $_ > 0 } @left;
}

my $pipeline = OrderIdempotency::Pipeline->new(
	kind => 'rabbitmq', node => $node, broker => $rabbit, variables => { host => '127.0.0.1', port => $rabbit->port },
	env => { RABBITMQ => 'amqp://127.0.0.1:' . $rabbit->port });
wait_for_worker($node, $_) foreach qw(events rejected);
$pipeline->run_all;
$pipeline->wait_consumed(\&no_messages);
$pipeline->finish;
ok(no_messages(), 'every message is acknowledged');
$pipeline->compare(sub { $rabbit->drain_to_file(@_) });

$node->stop;
$rabbit->kill9;
done_testing();
