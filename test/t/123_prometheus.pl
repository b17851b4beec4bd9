# The monitoring example is true: the exporter, with the queries file, as a role
# that has nothing but grant_monitor(), shows every metric that the file names,
# with the values that the views have; the alert rules fire when their tests say,
# and use no metric that is not there.
#
# Bugs that this catches: a column renamed, a right missing, a query that the
# exporter cannot read; an alert on a metric that nobody exports, which never fires.

use strict;
use warnings;

use FindBin;
use HTTP::Tiny;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $api = 'order_idempotency';
my $example = "$FindBin::RealBin/../../examples/monitoring";
my $exporter = 'prometheus-postgres-exporter';

# Is a program there?
sub found
{
	my ($program) = @_;

	return grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

# -- the alert rules ---------------------------------------------------------------

SKIP:
{
	skip 'promtool is missing (package prometheus)', 2 if !found('promtool');

	foreach my $command ([qw(check rules alerts.yaml)], [qw(test rules alerts_test.yaml)])
	{
		my $output = '';
		my $good = IPC::Run::run [ 'promtool', @$command ], '>&', \$output, init => sub { chdir $example or die };

		ok($good, "promtool @$command") or diag $output;
	}
}

# -- the exporter -------------------------------------------------------------------

if (!found($exporter))
{
	note "left out: $exporter is missing";
  SKIP: { skip "$exporter is missing", 1; }
	done_testing();
	exit;
}

my $node = new_drain_node('prometheus', conf => "order_idempotency.max_retained = 1GB\n");
subscribe($node, 'audit');
$node->safe_psql('postgres', <<~"SQL");
	CREATE ROLE watcher LOGIN;
	SELECT $api.grant_monitor('watcher');
	SELECT $api.create_order('o', 1, 'EUR') FROM generate_series(1, 3);
	SELECT $api.claim_key('k') FROM generate_series(1, 6);
	SELECT $api.emit_event('test.event', 'e') FROM generate_series(1, 4);
	SELECT $api.claim_key('l', lease => '1 ms');
	SQL
$node->poll_query_until('postgres', "SELECT delivered = 5 FROM $api.subscription_stats") or die;
drained($node, 'audit');

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $log = $node->basedir . '/exporter.log';
local $ENV{DATA_SOURCE_NAME} = join ' ', 'host=' . $node->host, 'port=' . $node->port,
  'user=watcher', 'dbname=postgres', 'sslmode=disable';
my $process = IPC::Run::start(
	[ $exporter, "--web.listen-address=127.0.0.1:$port", "--extend.query-path=$example/queries.yaml",
		qw(--disable-default-metrics --disable-settings-metrics --no-collector.database --no-collector.bgwriter) ],
	'<', \undef, '>&', $log);

# Waits until the exporter answers; returns what it shows.
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $answer;
do
{
	Time::HiRes::sleep(0.1) if $answer;
	$answer = HTTP::Tiny->new(timeout => 60)->get("http://127.0.0.1:$port/metrics");
} until $answer->{success} || time > $deadline;
$process->kill_kill;
ok($answer->{success}, 'the exporter answers') or diag slurp_file($log);

my $shown = $answer->{content};
my %value = map { /^(\S+?(?:\{.*\})?) (\S+)$/ ? ($1 => $2) : () } split /\n/, $shown;
# labels that are the same on all
my %plain;
foreach my $series (keys %value)
{
	my $name = $series =~ s/(datname|server)="[^"]*",?//gr =~ s/,\}/}/r =~ s/\{\}//r;

	$plain{$name} = $value{$series};
}
is($plain{pg_exporter_last_scrape_error}, 0, 'without an error');
unlike(slurp_file($log), qr/level=error|level=warn/, 'nor one in its log') or diag slurp_file($log);

my %expected = (
	"${api}_orders_created" => 1,
	"${api}_orders_replayed" => 2,
	"${api}_orders_mismatch" => 0,
	"${api}_claims_claimed" => 2,
	"${api}_claims_replayed" => 5,
	"${api}_retries_ratio{minutes=\"60\",source=\"claims\"}" => 2.5,
	"${api}_retries_ratio{minutes=\"5\",source=\"orders\"}" => 2,
	"${api}_subscription_working{subscription=\"audit\"}" => 1,
	(map { ("${api}_subscription_${_}{subscription=\"audit\"}" => 0) }
		qw(lag_events lag_bytes lag_seconds in_flight parked dead paused disarmed)),
	"${api}_held_overdue_seconds{subscription=\"audit\"}" => 0,
	"${api}_store_limit_bytes{store=\"keys\"}" => 0,
	"${api}_store_limit_bytes{store=\"outbox\"}" => "1.073741824e+09",
	"${api}_deliveries_delivered{subscription=\"audit\"}" => 5,
	"${api}_deliveries_latency_count{subscription=\"audit\"}" => 5,
	"${api}_deliveries_latency_bucket{subscription=\"audit\",le=\"+Inf\"}" => 5,
	"${api}_deliveries_latency_bucket{subscription=\"audit\",le=\"600\"}" => 5,
	"${api}_pending_abandoned_claims" => 1,
	"${api}_pending_deadline_failures" => 0);
is($plain{$_}, $expected{$_}, $_) foreach sort keys %expected;

# -- all of them, and nothing else --------------------------------------------------

my ($namespace, @named);
foreach (split /\n/, slurp_file("$example/queries.yaml"))
{
	$namespace = $1 if /^(\w+):/;
	push @named, "${namespace}_$1" if /^    - (\w+): \{usage: (?:COUNTER|GAUGE)/;
	push @named, map { "${namespace}_$1_$_" } qw(bucket sum count) if /^    - (\w+): \{usage: HISTOGRAM/;
}
my %names = map { /^(\w+)/ ? ($1 => 1) : () } keys %value;
cmp_ok(scalar @named, '>=', 30, 'the file names metrics');
is(join(' ', grep { !$names{$_} } @named), '', 'each is shown');
my %used = map { $_ => 1 } slurp_file("$example/alerts.yaml") =~ /\b(${api}_\w+)/g;
cmp_ok(scalar keys %used, '>=', 9, 'the alerts use metrics');
is(join(' ', grep { !$names{$_} } sort keys %used), '', 'each of which is shown');

$node->stop;
done_testing();
