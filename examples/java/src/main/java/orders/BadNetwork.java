package orders;

import java.io.FilterInputStream;
import java.io.FilterOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.Socket;
import java.net.SocketException;
import java.nio.charset.StandardCharsets;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import javax.net.SocketFactory;
import org.postgresql.ds.PGSimpleDataSource;

/**
 * A network that loses the first answer to what contains a text, and the connection with it. The answer
 * has come by then, so the server has carried it out. The driver makes one for each connection.
 */
public final class BadNetwork extends SocketFactory {
    /** The texts whose answer was lost. */
    private static final Set<String> LOST = ConcurrentHashMap.newKeySet();

    private final String text;

    /** What the driver calls, with the data source's socketFactoryArg. */
    public BadNetwork(String text) {
        this.text = text;
    }

    /** Makes a data source's connections go through such a network. */
    static void install(PGSimpleDataSource source, String text) {
        source.setSocketFactory(BadNetwork.class.getName());
        source.setSocketFactoryArg(text);
    }

    @Override
    public Socket createSocket() {
        return new BadSocket(text);
    }

    @Override
    public Socket createSocket(String host, int port) {
        throw new UnsupportedOperationException("the driver connects by itself");
    }

    @Override
    public Socket createSocket(String host, int port, InetAddress localHost, int localPort) {
        return createSocket(host, port);
    }

    @Override
    public Socket createSocket(InetAddress host, int port) {
        return createSocket(host.getHostAddress(), port);
    }

    @Override
    public Socket createSocket(InetAddress host, int port, InetAddress localHost, int localPort) {
        return createSocket(host, port);
    }

    /** A connection through it. */
    private static final class BadSocket extends Socket {
        private final String text;
        private volatile boolean losing;

        BadSocket(String text) {
            this.text = text;
        }

        @Override
        public OutputStream getOutputStream() throws IOException {
            return new FilterOutputStream(super.getOutputStream()) {
                @Override
                public void write(byte[] bytes, int from, int length) throws IOException {
                    String sent = new String(bytes, from, length, StandardCharsets.ISO_8859_1);
                    losing = losing || sent.contains(text) && LOST.add(text);
                    out.write(bytes, from, length);
                }
            };
        }

        @Override
        public InputStream getInputStream() throws IOException {
            return new FilterInputStream(super.getInputStream()) {
                @Override
                public int read(byte[] bytes, int from, int length) throws IOException {
                    int count = in.read(bytes, from, length);
                    if (losing) {
                        close();
                        throw new SocketException("the network has lost an answer");
                    }
                    return count;
                }
            };
        }
    }
}
