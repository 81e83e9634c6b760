-- The second workload, of small transactions only: 1,990,000 row changes in 510,000 transactions. After bench.sql.
USE bench;
FLUSH BINARY LOGS;
CALL single_orders(250000);
CALL order_batches(150000, 5);
CALL sysbench_batches(110000, 9);
