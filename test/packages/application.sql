-- What the demo does, as an application: both creations of an order, its life, a
-- cancel that overtakes its create, and a claim.
SELECT outcome FROM order_idempotency.create_order('cart-7', 4990, 'EUR', 'alice', '{"sku": "book"}');
SELECT outcome FROM order_idempotency.create_order('cart-7', 4990, 'EUR', 'alice', '{"sku": "book"}');
SELECT outcome FROM order_idempotency.transition_order('cart-7', 'paid', request_key => 'charge-81');
SELECT outcome FROM order_idempotency.transition_order('cart-7', 'completed', request_key => 'done');
SELECT outcome FROM order_idempotency.cancel_order('cart-8', 'withdrawn by the customer', request_key => 'stop', if_missing => 'tombstone');
SELECT outcome FROM order_idempotency.create_order('cart-8', 10, 'EUR', on_conflict => 'report');
SELECT outcome FROM order_idempotency.claim_key('request-1');
SELECT outcome FROM order_idempotency.claim_key('request-1');
