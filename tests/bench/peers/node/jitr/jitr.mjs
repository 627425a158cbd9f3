// The Node peer of `functions/jitr`: the commonly copied sample of just-in-time registration. It activates every
// certificate, with a policy that allows everything, and validates nothing. Do not use it.

import {
  AttachPolicyCommand,
  CreatePolicyCommand,
  IoTClient,
  ResourceAlreadyExistsException,
  UpdateCertificateCommand,
} from "@aws-sdk/client-iot";

const REGION = process.env.AWS_REGION;

const iot = new IoTClient({});

export async function handler(event) {
  const { certificateId, awsAccountId } = event.payload;
  const policyName = `Policy_${certificateId}`;
  const policy = {
    Version: "2012-10-17",
    Statement: [{ Effect: "Allow", Action: "iot:*", Resource: "*" }],
  };
  try {
    await iot.send(new CreatePolicyCommand({ policyName, policyDocument: JSON.stringify(policy) }));
  } catch (error) {
    if (!(error instanceof ResourceAlreadyExistsException)) {
      throw error;
    }
  }
  const target = `arn:aws:iot:${REGION}:${awsAccountId}:cert/${certificateId}`;
  await iot.send(new AttachPolicyCommand({ policyName, target }));
  await iot.send(new UpdateCertificateCommand({ certificateId, newStatus: "ACTIVE" }));
  console.log(`${certificateId} is active`);
}
