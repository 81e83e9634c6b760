// Counts change events, as JSON, by Debezium's embedded engine, from the start of a binlog file, for the benchmark.
// Arguments: port, user, password, schema, binlog file, events to count, GTIDs of earlier files.
// Prints the seconds from the start to the first event, and from the first event to the last.
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.ObjectOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Locale;
import java.util.Properties;

public class Count {
    static long count = 0;
    static long first = 0;

    public static void main(String[] args) throws Exception {
        long expected = Long.parseLong(args[5]);
        Path offsets = Files.createTempFile("offsets", ".dat");
        String gtids = args[6].isEmpty() ? "" : ",\"gtids\":\"" + args[6].replace("\n", "") + "\"";
        HashMap<byte[], byte[]> place = new HashMap<>();
        place.put(
            "[\"count\",{\"server\":\"rowmill\"}]".getBytes(StandardCharsets.UTF_8),
            ("{\"file\":\"" + args[4] + "\",\"pos\":4" + gtids + "}").getBytes(StandardCharsets.UTF_8));
        try (ObjectOutputStream out = new ObjectOutputStream(Files.newOutputStream(offsets))) {
            out.writeObject(place);
        }
        Properties properties = new Properties();
        properties.setProperty("name", "count");
        properties.setProperty("connector.class", "io.debezium.connector.mysql.MySqlConnector");
        properties.setProperty("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
        properties.setProperty("offset.storage.file.filename", offsets.toString());
        properties.setProperty("offset.flush.interval.ms", "60000");
        properties.setProperty("schema.history.internal", "io.debezium.relational.history.MemorySchemaHistory");
        properties.setProperty("topic.prefix", "rowmill");
        properties.setProperty("database.hostname", "127.0.0.1");
        properties.setProperty("database.port", args[0]);
        properties.setProperty("database.user", args[1]);
        properties.setProperty("database.password", args[2]);
        properties.setProperty("database.ssl.mode", "disabled");
        properties.setProperty("driver.allowPublicKeyRetrieval", "true");
        properties.setProperty("database.include.list", args[3]);
        properties.setProperty("database.server.id", "4243");
        properties.setProperty("snapshot.mode", "recovery");
        properties.setProperty("include.schema.changes", "false");
        properties.setProperty("tombstones.on.delete", "false");
        properties.setProperty("converter.schemas.enable", "false");
        long started = System.nanoTime();
        DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class)
            .using(properties)
            .using((success, message, error) -> {
                System.err.println("ended: " + success + " " + message);
                if (error != null) {
                    error.printStackTrace();
                }
                System.exit(1);
            })
            .notifying(event -> {
                if (event.value() == null) {
                    return;
                }
                if (count++ == 0) {
                    first = System.nanoTime();
                }
                if (count == expected) {
                    double until = (first - started) / 1e9;
                    double rest = (System.nanoTime() - first) / 1e9;
                    System.out.println(String.format(Locale.ROOT, "%.3f %.3f", until, rest));
                    System.out.flush();
                    Runtime.getRuntime().halt(0);
                }
            })
            .build();
        engine.run();
    }
}
