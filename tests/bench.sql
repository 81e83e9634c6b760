-- The benchmark's workload: half orders of ten columns, half sysbench-like rows; transactions of one row, of a
-- hundred, and two huge ones. 1,525,000 row changes.
DROP DATABASE IF EXISTS bench;
CREATE DATABASE bench;
USE bench;
CREATE TABLE orders (
 id BIGINT PRIMARY KEY AUTO_INCREMENT, customer_id BIGINT NOT NULL, amount DECIMAL(12,2) NOT NULL,
 status VARCHAR(16) NOT NULL, email VARCHAR(80) NOT NULL, address VARCHAR(200) NOT NULL,
 note VARCHAR(200) NULL, qty INT NOT NULL, created_at DATETIME(6) NOT NULL, attrs JSON NULL);
CREATE TABLE sbtest (id BIGINT PRIMARY KEY AUTO_INCREMENT, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL);
CREATE TABLE seq (n INT PRIMARY KEY);
INSERT INTO seq WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM s WHERE n<1000) SELECT n FROM s;
DELIMITER //
CREATE PROCEDURE order_batches(txs INT, rows_per INT)
BEGIN DECLARE i INT DEFAULT 0;
 WHILE i < txs DO
  INSERT INTO orders(customer_id,amount,status,email,address,note,qty,created_at,attrs)
   SELECT n*7+i, (n*i%100000)/100, ELT(1+(n+i)%10,'paid','pending','shipped','new','cancelled','refunded','packed','held','returned','draft'),
    CONCAT('customer',n*31+i,'@example.com'), CONCAT(n,' Example Street, Building ',i%97,', Springfield, Region ',n%50,', 12345-',i%9999),
    IF(n%3=0,NULL,CONCAT('please leave at door ',n)), n%20, '2026-11-23 10:00:00.123456' + INTERVAL n SECOND, JSON_OBJECT('src','web','n',n,'gift',n%2=0)
   FROM seq WHERE n<=rows_per;
  SET i=i+1;
 END WHILE; END//
CREATE PROCEDURE sysbench_batches(txs INT, rows_per INT)
BEGIN DECLARE i INT DEFAULT 0;
 WHILE i < txs DO
  INSERT INTO sbtest(k,c,pad) SELECT n*i%500000, RPAD(CONCAT(n,'-',i,'-'),119,'68487932199-96439406143-'), RPAD(CONCAT(i,'-'),59,'22195207048-') FROM seq WHERE n<=rows_per;
  SET i=i+1;
 END WHILE; END//
CREATE PROCEDURE single_orders(txs INT)
BEGIN DECLARE i INT DEFAULT 0;
 WHILE i < txs DO
  INSERT INTO orders(customer_id,amount,status,email,address,note,qty,created_at,attrs) VALUES
   (i, i/100, ELT(1+i%10,'paid','pending','shipped','new','cancelled','refunded','packed','held','returned','draft'), CONCAT('c',i,'@example.com'), CONCAT(i,' Main Street, Springfield, Region, Country'), NULL, i%20, NOW(6), '{"src":"web"}');
  SET i=i+1;
 END WHILE; END//
DELIMITER ;
FLUSH BINARY LOGS;
CALL order_batches(5000, 100);
CALL sysbench_batches(5000, 100);
CALL single_orders(50000);
INSERT INTO sbtest(k,c,pad) SELECT k, c, pad FROM sbtest LIMIT 237500;
UPDATE orders SET qty = qty + 1 LIMIT 237500;
