// Debezium's embedded engine, writing each change event as a line of JSON, to compare Rowmill with.
// Arguments: port, user, password, schema, where to write.
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.BufferedWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

public class Capture {
    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("name", "capture");
        properties.setProperty("connector.class", "io.debezium.connector.mysql.MySqlConnector");
        properties.setProperty("offset.storage", "org.apache.kafka.connect.storage.MemoryOffsetBackingStore");
        properties.setProperty("offset.flush.interval.ms", "60000");
        properties.setProperty("schema.history.internal", "io.debezium.relational.history.MemorySchemaHistory");
        properties.setProperty("topic.prefix", "rowmill");
        properties.setProperty("database.hostname", "127.0.0.1");
        properties.setProperty("database.port", args[0]);
        properties.setProperty("database.user", args[1]);
        properties.setProperty("database.password", args[2]);
        properties.setProperty("database.include.list", args[3]);
        properties.setProperty("database.server.id", "4242");
        properties.setProperty("snapshot.mode", "no_data");
        properties.setProperty("include.schema.changes", "true");
        properties.setProperty("tombstones.on.delete", "false");
        properties.setProperty("decimal.handling.mode", "string");
        properties.setProperty("time.precision.mode", "isostring");
        properties.setProperty("binary.handling.mode", "base64");
        properties.setProperty("bigint.unsigned.handling.mode", "long");
        properties.setProperty("enable.time.adjuster", "false");
        properties.setProperty("converter.schemas.enable", "false");
        try (BufferedWriter out = Files.newBufferedWriter(Path.of(args[4]))) {
            DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class)
                .using(properties)
                .using((success, message, error) -> {
                    System.err.println("ended: " + success + " " + message);
                    if (error != null) {
                        error.printStackTrace();
                    }
                })
                .notifying(event -> {
                    try {
                        if (event.value() != null) {
                            out.write(event.value());
                            out.newLine();
                            out.flush();
                        }
                    } catch (java.io.IOException error) {
                        throw new java.io.UncheckedIOException(error);
                    }
                })
                .build();
            engine.run();
        }
    }
}
